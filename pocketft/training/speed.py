"""How fast a run is: what its remaining time is reckoned from."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass
class Speed:
    """Tokens per second of the optimizer steps of this process, the first left out: it warms caches and allocators."""

    tokens: int = 0
    seconds: float = 0.0
    steps: int = 0
    first: float | None = None

    def add(self, tokens: int, seconds: float) -> None:
        if self.first is None:
            self.first = tokens / seconds
        else:
            self.tokens, self.seconds, self.steps = self.tokens + tokens, self.seconds + seconds, self.steps + 1

    @property
    def tokens_per_s(self) -> float:
        return self.tokens / self.seconds if self.steps else self.first or 0.0
