"""What a merge is told to do, and whether that makes sense."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal

from pocketft.adapters import robust
from pocketft.errors import UsageError

MergeMethod = Literal["exact", "fedavg", "ffa", "ties", "dare"]
METHODS: tuple[MergeMethod, ...] = ("exact", "fedavg", "ffa", "ties", "dare")
FACTOR_WISE = ("fedavg", "ffa")

DEFAULT_ENERGY = 0.99


@dataclass(frozen=True)
class MergeSettings:
    """`energy` None keeps 99% and at least the adapters' own rank, so that merging equal adapters loses nothing.
    `clip` None is the median norm, or no clipping with `lossless`."""

    method: MergeMethod = "exact"
    weights: tuple[float, ...] | None = None  # None: by training tokens
    rank: int | None = None
    energy: float | None = None
    lossless: bool = False
    density: float = 0.5  # ties, dare: the part of the entries that is kept
    clip: float | Literal["none", "median"] | None = None
    robust: robust.RobustRule = "none"
    seed: int = 0  # dare
    allow_different_quantization: bool = False

    @property
    def clip_limit(self) -> float | Literal["median"] | None:
        if self.clip is None:
            return None if self.lossless else "median"
        return None if self.clip == "none" else self.clip


def check_settings(settings: MergeSettings, count: int) -> None:
    """Raises UsageError for settings that contradict each other or ask too much of `count` adapters."""
    if settings.method not in METHODS:
        raise UsageError(f"no merge method {settings.method!r}; there are {', '.join(METHODS)}")
    if settings.robust not in robust.FEWEST:
        raise UsageError(f"no robust rule {settings.robust!r}; there are {', '.join(robust.FEWEST)}")
    if count < robust.FEWEST[settings.robust]:
        raise UsageError(
            f"--robust {settings.robust} needs at least {robust.FEWEST[settings.robust]} adapters, not {count}"
        )
    cuts = [settings.rank is not None, settings.energy is not None, settings.lossless]
    if sum(cuts) > 1:
        raise UsageError("--rank, --energy and --lossless each decide the rank; give one of them")
    if any(cuts) and settings.method in FACTOR_WISE:
        raise UsageError(
            f"{settings.method} keeps the rank of its adapters; --rank, --energy and --lossless are for the others"
        )
    if settings.rank is not None and settings.rank < 1:
        raise UsageError("--rank must be at least 1")
    if settings.energy is not None and not 0 < settings.energy <= 1:
        raise UsageError("--energy is the part to keep, above 0 and up to 1, for example 0.99")
    if not 0 < settings.density <= 1:
        raise UsageError("--density is the part of the entries to keep, above 0 and up to 1")
    if isinstance(settings.clip, float) and not 0 < settings.clip < math.inf:
        raise UsageError("--clip must be none, median, or a norm above zero")
