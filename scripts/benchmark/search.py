"""The smallest number that passes a trial, found by halving."""

from __future__ import annotations

from collections.abc import Callable


def smallest_passing(passes: Callable[[int], bool], too_low: int, high: int, within: int) -> int | None:
    """The smallest number above `too_low` and up to `high`, to `within`, that passes, where every larger one is taken
    to pass too.

    None if `high` itself does not pass.
    """
    if not passes(high):
        return None
    while high - too_low > within:
        middle = (too_low + high) // 2
        if passes(middle):
            high = middle
        else:
            too_low = middle
    return high
