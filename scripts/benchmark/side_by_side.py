"""Two contenders at the same time, in slices of seconds: how fast the one is against the other.

Runs one after the other are minutes apart, and on a machine that is shared with others a processor may be half as fast
a minute later. Here both processes are there at once, one stands still while the other computes, and what slows the
machine down slows both. Of a plan against itself this told 0.97 and 1.00 while a quarter of its time was taken away.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from benchmark import cells
from benchmark.medians import median_ratio
from benchmark.process import Job, Measured, Running, failed, figures
from benchmark.turns import tell_run

_SLICE_S = 2.0
_LATE_S = 3600.0


@dataclass(frozen=True)
class Pair:
    """What was measured of each; the same number of repeats."""

    one: tuple[Measured, ...]
    other: tuple[Measured, ...]

    @property
    def ratio(self) -> float | None:
        """Tokens/s of the one in those of the other, the median over the repeats; None where one of them failed."""
        return median_ratio(figures(self.one, "tokens_per_s"), figures(self.other, "tokens_per_s"))

    def told(self) -> str:
        """The ratio, and of each repeat where there are several; "failed" where a run did."""
        each = [_told(Pair((one,), (other,)).ratio) for one, other in zip(self.one, self.other, strict=True)]
        return _told(self.ratio) + (f" ({', '.join(each)})" if len(each) > 1 else "")

    def records(self) -> list[dict[str, object]]:
        """Every single run, for the JSON."""
        numbered = list(enumerate(zip(self.one, self.other, strict=True), start=1))
        return [
            {"repeat": repeat, **run.to_json(), "beside": beside.name}
            for repeat, (one, other) in numbered
            for run, beside in ((one, other), (other, one))
        ]


def side_by_side(one: Callable[[], Job], other: Callable[[], Job], repeats: int) -> Pair:
    """Each begins every other time. Where the one that begins fails, the other is not begun."""
    pairs = []
    for repeat in range(repeats):
        jobs = [one(), other()]
        pairs.append(_in_slices(jobs) if repeat % 2 == 0 else _in_slices(jobs[::-1])[::-1])
        for run in pairs[-1]:
            tell_run(f"[{repeat + 1}/{repeats}] {run.name}, side by side", run)
    ones, others = zip(*pairs, strict=True)
    return Pair(ones, others)


def _told(ratio: float | None) -> str:
    return cells.ratio(ratio) or "failed"


def _in_slices(jobs: Sequence[Job]) -> list[Measured]:
    """From the end of their first optimizer steps on they take turns."""
    with Running(jobs[0]) as first:
        first.go(_LATE_S, until=lambda: first.has_stepped)
        if first.ended:
            return [first.measured(), failed(jobs[1].name, f"not begun beside {jobs[0].name}")]
        with Running(jobs[1]) as second:
            with first.paused():
                second.go(_LATE_S, until=lambda: second.has_stepped)
            over = time.perf_counter() + _LATE_S
            while not (first.ended and second.ended) and time.perf_counter() < over:
                with second.paused():
                    first.go(_SLICE_S)
                with first.paused():
                    second.go(_SLICE_S)
            return [first.measured(), second.measured()]
