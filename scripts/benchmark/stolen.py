"""Processor time that a virtual machine wanted and did not get, because its host gave it to others."""

from __future__ import annotations

import psutil


class Stolen:
    """Counts from its making on. Only Linux tells; elsewhere nothing is ever stolen."""

    def __init__(self) -> None:
        self._stolen_s, self._total_s = _counted_s()

    def share(self) -> float:
        """Of all processors' time since then, 0 to 1."""
        stolen_s, total_s = _counted_s()
        return (stolen_s - self._stolen_s) / max(total_s - self._total_s, 1e-9)


def _counted_s() -> tuple[float, float]:
    """Stolen, and all: what guests get is part of `user` and `nice` already."""
    times = psutil.cpu_times()._asdict()
    return times.get("steal", 0.0), sum(value for name, value in times.items() if not name.startswith("guest"))
