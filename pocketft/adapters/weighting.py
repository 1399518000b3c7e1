"""How much each adapter counts in a mean: by the tokens it was trained on, as told, or equally.

Token counts come from the adapters themselves and anyone can write a number into a file, so a claim far above the
others' is not believed. Pure functions; every departure from the plain reading is returned as a notice.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from pocketft.adapters.state import AdapterInfo
from pocketft.errors import UsageError

# A claim of more than ten times the median counts as the median. An honest device with far more text than the others
# is named and can be given its weight by hand; a liar gains nothing.
BELIEVED_TIMES_MEDIAN = 10


@dataclass(frozen=True)
class Weighting:
    weights: tuple[float, ...]  # sum to one
    by: str  # "tokens", "given" or "equal"
    tokens: tuple[int | None, ...]  # as far as believed
    notices: tuple[str, ...] = ()


def training_tokens(info: AdapterInfo) -> int | None:
    """The tokens that an adapter says it was trained on, or None."""
    value = info.provenance.get("tokens")
    return value if type(value) is int and value >= 0 else None


def by_tokens(infos: Sequence[AdapterInfo]) -> Weighting:
    claims = [training_tokens(info) for info in infos]
    equal = tuple(1 / len(infos) for _ in infos)
    if len(infos) == 1:
        return Weighting(equal, "equal", tuple(claims))
    silent = [info.label for info, claim in zip(infos, claims, strict=True) if claim is None]
    if silent:
        notice = f"all adapters count equally: no training tokens are recorded in {', '.join(silent)}"
        return Weighting(equal, "equal", tuple(claims), (notice,))
    known = [claim for claim in claims if claim is not None]
    median = sorted(known)[(len(known) - 1) // 2]  # the lower one: of two claims the smaller is the safe one
    if median == 0:
        return Weighting(equal, "equal", tuple(claims), ("all adapters count equally: most record no training tokens",))
    notices, believed = [], []
    for info, claim in zip(infos, known, strict=True):
        if claim > BELIEVED_TIMES_MEDIAN * median:
            notices.append(
                f"{info.label} claims {_shown(claim)} training tokens, more than {BELIEVED_TIMES_MEDIAN} times "
                f"the median; counted as the median, {_shown(median)} (--weights overrules this)"
            )
            claim = median
        believed.append(claim)
    total = sum(believed)
    return Weighting(tuple(claim / total for claim in believed), "tokens", tuple(believed), tuple(notices))


def as_given(weights: Sequence[float], infos: Sequence[AdapterInfo]) -> Weighting:
    if len(weights) != len(infos):
        raise UsageError(f"{len(weights)} weights for {len(infos)} adapters; give one for each, in their order")
    if not all(math.isfinite(weight) and weight >= 0 for weight in weights) or not 0 < sum(weights) < math.inf:
        raise UsageError("weights must be numbers of zero or more, and not all zero")
    total = sum(weights)
    return Weighting(tuple(weight / total for weight in weights), "given", tuple(training_tokens(i) for i in infos))


def _shown(count: int) -> str:
    return f"{count:,}" if count < 10**15 else f"{float(min(count, 10**300)):.0e}"
