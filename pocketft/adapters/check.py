"""Scoring a merge on held-out text: against the base, against each adapter, and against the merge without each
adapter.

How a score is computed is not known here: a `Scorer` is handed in. Candidates come as an iterator, so that only one
merge exists at a time.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from torch import Tensor

from pocketft.adapters import robust
from pocketft.adapters.merge import MergedAdapter, merge_states
from pocketft.adapters.merge_settings import FACTOR_WISE, MergeSettings
from pocketft.adapters.state import AdapterInfo, AdapterState, folded
from pocketft.errors import UsageError

FoldedFactors = Mapping[str, tuple[Tensor, Tensor]]

# Takes the largest rank that each module will have, and adapters as factors with their scaling inside B ({} is the
# bare base); returns the mean loss of each, in their order.
Scorer = Callable[[Mapping[str, int], Iterable[FoldedFactors]], Sequence[float]]

# Leaving an adapter out must help by more than this part of the loss before the adapter is said to hurt.
_NOTABLE_GAIN = 0.001


@dataclass(frozen=True)
class CheckReport:
    """Mean held-out losses in nats per token. `without[label]` is the merge of the others; empty for a single
    adapter.
    """

    base: float
    merge: float
    adapters: dict[str, float]
    without: dict[str, float]

    @property
    def worse_than_base(self) -> bool:
        """A loss that is not a number counts as worse than any."""
        return not self.merge <= self.base

    @property
    def harmful(self) -> str | None:
        """The adapter without which the merge would be best, if leaving it out helps at all."""
        if not self.without:
            return None
        label = min(self.without, key=lambda name: _or_worst(self.without[name]))
        merge = _or_worst(self.merge)
        return label if self.without[label] < merge - _NOTABLE_GAIN * min(merge, 1e6) else None

    def to_json(self) -> dict[str, Any]:
        return {
            "base_loss": _or_none(self.base),
            "merge_loss": _or_none(self.merge),
            "adapter_losses": {label: _or_none(loss) for label, loss in self.adapters.items()},
            "losses_without": {label: _or_none(loss) for label, loss in self.without.items()},
            "worse_than_base": self.worse_than_base,
            "harmful": self.harmful,
        }


def check_merge(
    states: Sequence[AdapterState], merged: MergedAdapter, settings: MergeSettings, score: Scorer
) -> CheckReport:
    _refuse_unscorable([state.info for state in states])
    leave_one_out = len(states) > 1
    ranks = dict.fromkeys(merged.info.modules, max(merged.info.max_rank, *(state.info.max_rank for state in states)))
    # The merge without one adapter gets no more rank than the merge with it had.
    if settings.method not in FACTOR_WISE:
        clip = settings.clip_limit or "none"
        settings = replace(settings, rank=merged.report.rank, energy=None, lossless=False, clip=clip)

    def candidates() -> Iterator[FoldedFactors]:
        yield {}
        yield folded(merged)
        yield from (folded(state) for state in states)
        if leave_one_out:
            yield from (folded(_without(states, settings, index)) for index in range(len(states)))

    losses = list(score(ranks, candidates()))
    labels = [state.info.label for state in states]
    adapters = losses[2 : 2 + len(states)]
    without = losses[2 + len(states) :]
    return CheckReport(
        base=losses[0],
        merge=losses[1],
        adapters=dict(zip(labels, adapters, strict=True)),
        without=dict(zip(labels, without, strict=True)) if leave_one_out else {},
    )


def _without(states: Sequence[AdapterState], settings: MergeSettings, index: int) -> AdapterState:
    """The merge that the person would have got without one adapter; with only one other left, that one as it is."""
    others = [state for place, state in enumerate(states) if place != index]
    weights = settings.weights
    if weights is not None:
        weights = tuple(weight for place, weight in enumerate(weights) if place != index)
        if not any(weights):
            weights = None
    rule = settings.robust if len(others) >= robust.FEWEST[settings.robust] else "none"
    if len(others) == 1:
        return others[0]
    return merge_states(others, replace(settings, weights=weights, robust=rule))


def _refuse_unscorable(infos: Sequence[AdapterInfo]) -> None:
    for info in infos:
        odd = [name for name, module in info.modules.items() if module.kind != "linear"] + list(info.extras)
        if odd:
            raise UsageError(f"--check scores factors of linear layers only, and {info.label} also changes {odd[0]}")


def _or_worst(loss: float) -> float:
    return loss if math.isfinite(loss) else math.inf


def _or_none(loss: float) -> float | None:
    return loss if math.isfinite(loss) else None
