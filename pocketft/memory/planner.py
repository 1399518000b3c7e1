"""Choose how to train: the fastest way whose predicted peak stays under the cap. The mathematics is the same in every
plan.

Knows what is predicted of each candidate (`candidates.py`); reads no weight and no text.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from peft import LoraConfig
from transformers import PretrainedConfig

from pocketft.engine.weights import WeightSource
from pocketft.errors import CapTooSmall
from pocketft.memory.candidates import Candidates
from pocketft.memory.plan import Plan, Workload
from pocketft.memory.profile import MachineProfile
from pocketft.memory.size import format_size

MORE_BYTES = 256 << 20
_SURE = 0.95  # of the cap may be planned for: predictions are right to a few percent, and the cap is a promise
_SURE_AT_WORST = 0.98  # of it, where kernels are taken to need the most that the guard allows for
_AS_GOOD = 0.98  # of the best speed: predictions are not finer than that
_SHOWN = 3

# The ways to train that a person may have thought of, each with what tells it from the others.
_WAYS: tuple[tuple[str, Callable[[Plan], bool]], ...] = (
    ("nothing computed twice", lambda p: p.kept_blocks == _blocks(p)),
    ("all weights dense", lambda p: set(p.residences) == {"dense"}),
    ("all weights packed", lambda p: set(p.residences) == {"packed"}),
    ("all weights streamed", lambda p: set(p.residences) == {"streamed"}),
    ("no graph kept", lambda p: p.kept_blocks == 0),
    ("one row at a time", lambda p: p.micro_batch == 1),
)


@dataclass(frozen=True)
class Alternative:
    """A way that was not taken, at its best, and why not."""

    way: str
    plan: Plan
    fits: bool
    reason: str

    def to_json(self) -> dict[str, Any]:
        return {"way": self.way, **_summary(self.plan), "fits": self.fits, "reason": self.reason}


@dataclass(frozen=True)
class Choice:
    """The plan, what it beat, and the plan that 256 MB more would allow."""

    plan: Plan
    alternatives: tuple[Alternative, ...]
    with_more: Plan | None

    def to_json(self) -> dict[str, Any]:
        more = self.with_more and {"more_bytes": MORE_BYTES, **_summary(self.with_more)}
        return {
            **self.plan.to_json(),
            "alternatives": [alternative.to_json() for alternative in self.alternatives],
            "with_more": more,
        }


def make_choice(
    config: PretrainedConfig,
    source: WeightSource,
    lora: LoraConfig,
    workload: Workload,
    profile: MachineProfile,
    cap_bytes: int,
    dtype: str | None = None,
    among: Callable[[Plan], bool] | None = None,
    folder: Path | None = None,
) -> Choice:
    """The fastest plan under `cap_bytes`, of those that `among` allows. Raises CapTooSmall, with the smallest change
    that fits, where there is none. What is measured of the model is remembered in `folder`.
    """
    candidates = Candidates(config, source, lora, workload, profile, dtype or profile.compute_dtype, folder)
    plans = [plan for plan in candidates.plans(cap_bytes) if among is None or among(plan)]
    chosen = _fastest(plans, cap_bytes)
    if chosen is None:
        raise CapTooSmall(_advice(candidates, cap_bytes, plans))
    if workload.forward_only:
        return Choice(chosen, (), None)
    more = _fastest(plans, cap_bytes + MORE_BYTES)
    faster = more is not None and more.tokens_per_s > chosen.tokens_per_s
    return Choice(chosen, _alternatives(plans, chosen), more if faster else None)


def _fastest(plans: Iterable[Plan], cap_bytes: int) -> Plan | None:
    fitting = [plan for plan in plans if _least_cap_bytes(plan) <= cap_bytes]
    best = max((plan.tokens_per_s for plan in fitting), default=0.0)
    as_good = [plan for plan in fitting if plan.tokens_per_s >= _AS_GOOD * best]
    return min(as_good, key=_burden, default=None)


def _burden(plan: Plan) -> tuple[int, float, int]:
    """Of plans that are as good as equally fast: what spares the disk, then what is faster, then what is smaller."""
    return (plan.residences.count("streamed"), -plan.tokens_per_s, plan.predicted_peak_bytes)


def _least_cap_bytes(plan: Plan) -> int:
    """The smallest cap under which the plan may be chosen. One that gives memory back at once has none left for the
    guard to find: what the guard reckons with must fit, or it ends a run that would never have crossed the cap.
    """
    predicted = int(plan.predicted_peak_bytes / _SURE)
    return max(predicted, int(plan.worst_peak_bytes / _SURE_AT_WORST)) if plan.tight_allocator else predicted


def _alternatives(plans: Sequence[Plan], chosen: Plan) -> tuple[Alternative, ...]:
    """Of each way that is not the chosen plan's, its fastest plan that fits, or else its smallest; the fastest of
    these.
    """
    found = []
    for way, takes in _WAYS:
        if takes(chosen):
            continue
        ways = [plan for plan in plans if takes(plan)]
        fastest = _fastest(ways, chosen.cap_bytes)
        if fastest is not None:
            slower = "slower" if fastest.tokens_per_s < _AS_GOOD * chosen.tokens_per_s else "no faster"
            reason = f"{slower}: about {fastest.tokens_per_s:.0f} against {chosen.tokens_per_s:.0f} tokens/s"
            found.append(Alternative(way, fastest, True, reason))
        elif ways:
            smallest = min(ways, key=_least_cap_bytes)
            found.append(Alternative(way, smallest, False, f"needs {_cap_for(smallest)}"))
    found.sort(key=lambda alternative: -alternative.plan.tokens_per_s)
    return tuple(found[:_SHOWN])


def _cap_for(plan: Plan) -> str:
    """In tens of MB."""
    return f"--memory {-(-_least_cap_bytes(plan) // (10 << 20)) * 10}MB"


def _summary(plan: Plan) -> dict[str, Any]:
    return {
        "choice": plan.choice,
        "predicted_peak_bytes": plan.predicted_peak_bytes,
        "tokens_per_s": plan.tokens_per_s,
    }


def _blocks(plan: Plan) -> int:
    return len(plan.residences)


def _advice(candidates: Candidates, cap_bytes: int, plans: Sequence[Plan]) -> str:
    cap, tokens = format_size(cap_bytes), candidates.workload.row_tokens
    if not plans:
        return f"no plan fits in {cap}: there is none of the kind that is asked for"
    smallest = min(plans, key=_least_cap_bytes)
    needed = format_size(smallest.predicted_peak_bytes)
    head = f"no plan fits in {cap}: at {tokens} tokens a row the smallest needs {needed}"
    libraries_bytes = sum(smallest.components[name] for name in ("imports", "first_use"))
    if libraries_bytes >= cap_bytes:
        libraries = format_size(libraries_bytes)
        return f"{head}, of which {libraries} are the libraries alone; use {_cap_for(smallest)} or more"
    shorter = None if candidates.workload.forward_only else _shorter_rows(candidates, cap_bytes)
    instead = f", or --set data.max_seq_length={shorter}" if shorter else ""
    return f"{head}; use {_cap_for(smallest)}{instead}"


def _shorter_rows(candidates: Candidates, cap_bytes: int) -> int | None:
    """The longest halving of the row length that fits as the cap stands."""
    c, tokens = candidates, candidates.workload.row_tokens // 2
    while tokens >= 64:
        shorter = replace(c.workload, row_tokens=tokens)
        trial = Candidates(c.config, c.source, c.lora, shorter, c.profile, c.dtype, c.folder)
        if _fastest(trial.plans(cap_bytes), cap_bytes) is not None:
            return tokens
        tokens //= 2
    return None
