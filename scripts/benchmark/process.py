"""Run one training process and watch it from outside: time, memory, and the steps that it logs.

The same watch for every contender. A process tells of itself in a log of JSON lines: a first line when the model is
ready and the first optimizer step is about to begin, then one with "event": "step" after each optimizer step, with
`step`, `tokens` and `elapsed` (both since the beginning of training) and `loss`.
"""

from __future__ import annotations

import os
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Self

import psutil

from benchmark.places import CHECKOUT, environment
from benchmark.steps import rate_after_first, read_events, steps_done
from benchmark.stolen import Stolen
from benchmark.watch import Watch

_POLL_S = 0.02


@dataclass(frozen=True)
class Job:
    """A process to measure: `command`, and the log that it will write."""

    name: str
    command: tuple[str, ...]
    log: Path


@dataclass(frozen=True)
class Measured:
    """Sizes in bytes, times in seconds from the start of the process; None where there is nothing to tell.

    `ready_s`: the first optimizer step begins. `first_step_s`: it is done. `tokens_per_s`: optimizer steps, the first
    left out. `peak_bytes` is VmHWM, `anonymous_bytes` the largest RssAnon seen. `stolen_share`: of all processors'
    time meanwhile, what the host of a virtual machine gave to others.
    """

    name: str
    ok: bool
    wall_s: float
    peak_bytes: int
    anonymous_bytes: int | None
    ready_s: float | None = None
    first_step_s: float | None = None
    tokens_per_s: float | None = None
    steps: int = 0
    loss: float | None = None
    losses: tuple[float, ...] = ()
    stolen_share: float = 0.0
    error: str = ""
    events: tuple[dict[str, Any], ...] = field(default=(), repr=False)

    def event(self, kind: str) -> dict[str, Any]:
        """The last event of a kind; {} where there is none."""
        return next((event for event in reversed(self.events) if event.get("event") == kind), {})

    def to_json(self) -> dict[str, Any]:
        return {name: value for name, value in vars(self).items() if name != "events"}


def figures(found: Sequence[Measured], figure: str) -> list[float | None]:
    """One per repeat; None where the run failed."""
    return [getattr(run, figure) if run.ok else None for run in found]


def failed(name: str, why: str) -> Measured:
    """Of a run that could not even begin."""
    return Measured(name, ok=False, wall_s=0.0, peak_bytes=0, anonymous_bytes=None, error=why)


def measure(job: Job, limits: Sequence[Path] = (), timeout_s: float = 3600.0) -> Measured:
    """Run the job to its end. `limits`: files of control groups (`cgroup.procs`) that it enters before it starts."""
    with Running(job, limits) as running:
        running.go(timeout_s)
        return running.measured()


class Running:
    """A process, for as long as the context lasts. It may be paused: its speed is told without the pauses."""

    def __init__(self, job: Job, limits: Sequence[Path] = ()) -> None:
        enter = "".join(f'echo $$ > "{path}" && ' for path in limits)
        command = ["/bin/sh", "-c", f'{enter}exec "$@"', "sh", *job.command] if limits else list(job.command)
        job.log.unlink(missing_ok=True)
        self.job = job
        self._output = tempfile.TemporaryFile()  # noqa: SIM115 - open for as long as the process runs
        self._stolen, self._started = Stolen(), time.perf_counter()
        self._process = psutil.Popen(
            command,
            stdout=self._output,
            stderr=subprocess.STDOUT,
            env=environment(),
            cwd=CHECKOUT,
            start_new_session=True,
        )
        self._watch = Watch(self._process.pid, job.log, self._started)
        self._paused_s: dict[int, float] = {}  # optimizer steps done -> how long it stood still then
        self._wall_s: float | None = None  # once it has ended; others may run on beside it
        self._stolen_share = 0.0

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._kill()
        self._output.close()

    @property
    def ended(self) -> bool:
        if self._process.poll() is None:
            return False
        self._note_end()
        return True

    @property
    def has_stepped(self) -> bool:
        return self._watch.first_step_s is not None

    def go(self, for_s: float, until: Callable[[], bool] = lambda: False) -> None:
        """Watch it until it ends, the time is over, or `until` holds."""
        over = time.perf_counter() + for_s
        while not self.ended and time.perf_counter() <= over and not until():
            self._watch.look()
            time.sleep(_POLL_S)

    @contextmanager
    def paused(self) -> Iterator[None]:
        """It stands still meanwhile."""
        with suppress(psutil.NoSuchProcess):
            self._process.suspend()
        since = time.perf_counter()
        try:
            yield
        finally:
            done = steps_done(self.job.log)  # nothing is written any more: it has stopped by now
            self._paused_s[done] = self._paused_s.get(done, 0.0) + time.perf_counter() - since
            with suppress(psutil.NoSuchProcess):
                self._process.resume()

    def measured(self) -> Measured:
        """What was seen. Where it has not ended by itself, it is killed and has failed."""
        late = not self.ended
        self._note_end()
        code, wall_s = self._kill(), self._wall_s or 0.0
        self._output.seek(0)
        said = self._output.read().decode(errors="replace")
        measured = _measured(self.job, code, wall_s, self._watch, said, self._paused_s)
        measured = replace(measured, stolen_share=round(self._stolen_share, 3))
        return replace(measured, error=f"not done after {wall_s:.0f} s") if late else measured

    def _note_end(self) -> None:
        if self._wall_s is None:
            self._wall_s = time.perf_counter() - self._started
            self._stolen_share = self._stolen.share()

    def _kill(self) -> int:
        with suppress(psutil.NoSuchProcess):
            self._process.kill()
        return self._process.wait()


def _measured(job: Job, code: int, wall_s: float, watch: Watch, said: str, paused_s: Mapping[int, float]) -> Measured:
    events = read_events(job.log)
    steps = [event for event in events if event.get("event") == "step"]
    done: dict[str, Any] = next((event for event in reversed(events) if event.get("event") == "done"), {})
    return Measured(
        name=job.name,
        ok=code == 0 and bool(steps),
        wall_s=round(wall_s, 2),
        peak_bytes=max(watch.peak_bytes, int(done.get("peak_bytes") or 0)),
        anonymous_bytes=watch.anonymous_bytes,
        ready_s=_rounded(watch.ready_s),
        first_step_s=_rounded(watch.first_step_s),
        tokens_per_s=_rounded(rate_after_first(steps, paused_s)),
        steps=len(steps),
        loss=steps[-1]["loss"] if steps else None,
        losses=tuple(event["loss"] for event in steps),
        error="" if code == 0 else _last_words(code, said),
        events=tuple(events),
    )


def _last_words(code: int, said: str) -> str:
    lines = [line.strip() for line in said.strip().splitlines() if line.strip()]
    told = [line for line in lines if line.startswith("error:")] or lines[-1:]
    if code < 0:
        return f"killed by signal {-code}"
    how = f"exit {code}"
    return " ".join([how, *told[-1:]])[:400].replace(str(CHECKOUT), "").replace(os.path.expanduser("~"), "~")


def _rounded(value: float | None) -> float | None:
    return None if value is None else round(value, 3)
