"""What a process logs of its training: the events, and how fast the optimizer steps were."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any


def read_events(log: Path) -> list[dict[str, Any]]:
    """The whole lines of a log; [] where there is none."""
    try:
        lines = log.read_text(encoding="utf-8").splitlines()
    except OSError:
        return []
    events = []
    for line in lines:
        with suppress(ValueError):  # a line that was cut off
            events.append(json.loads(line))
    return events


def steps_done(log: Path) -> int:
    return sum(event.get("event") == "step" for event in read_events(log))


def rate_after_first(steps: Sequence[Mapping[str, Any]], paused_s: Mapping[int, float] | None = None) -> float | None:
    """Tokens per second from the end of the first step to the end of the last; None with fewer than two. `paused_s`:
    for how long the process stood still after so many steps.
    """
    if len(steps) < 2:
        return None
    first, last = steps[0], steps[-1]
    paused = sum(seconds for done, seconds in (paused_s or {}).items() if 1 <= done < len(steps))
    return float((last["tokens"] - first["tokens"]) / (last["elapsed"] - first["elapsed"] - paused))
