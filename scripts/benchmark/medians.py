"""What many repeats come to: medians, and ratios of what ran side by side."""

from __future__ import annotations

import statistics
from collections.abc import Sequence


def median(values: Sequence[float | None]) -> float | None:
    """Of the values that there are; None where there is none."""
    known = [value for value in values if value is not None]
    return statistics.median(known) if known else None


def median_ratio(ours: Sequence[float | None], theirs: Sequence[float | None]) -> float | None:
    """The median of the ratios within each repeat: what slows a whole repeat down does not count."""
    pairs = zip(ours, theirs, strict=True)
    return median([one / other for one, other in pairs if one is not None and other])


def spread(values: Sequence[float | None]) -> str:
    """ "lowest-highest" of the values that there are."""
    known = [value for value in values if value is not None]
    return f"{min(known):.3g}-{max(known):.3g}" if len(known) > 1 else ""
