"""The smallest number that passes a trial, found by halving."""

from __future__ import annotations

from collections.abc import Callable


def smallest_passing(passes: Callable[[int], bool], low: int, high: int, within: int) -> int | None:
    """The smallest number of [low, high], to `within`, that passes, where every larger one is taken to pass too.

    None if `high` itself does not pass.
    """
    if not passes(high):
        return None
    if passes(low):
        return low
    while high - low > within:
        middle = (low + high) // 2
        if passes(middle):
            high = middle
        else:
            low = middle
    return high
