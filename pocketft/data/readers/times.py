"""Points in time as exports write them, as seconds since 1970. Local times without a zone count as UTC."""

from __future__ import annotations

import re
from datetime import datetime, timezone
from typing import Any

_ISO = re.compile(r"(\d{4}-\d\d-\d\d)(?:[T ](\d\d:\d\d(?::\d\d)?))?(?:\.\d+)?\s*(?:Z|UTC|([+-])(\d\d):?(\d\d))?$")
_NEWEST_S = 4e9  # the year 2096: a larger number counts parts of a second


def parse_time(value: Any) -> float | None:
    """From a number of seconds, milli-, micro- or nanoseconds, or from ISO 8601; None for anything else."""
    if isinstance(value, bool):
        return None
    if isinstance(value, str):
        text = value.strip()
        if match := _ISO.match(text):
            return _iso(*match.groups())
        try:
            value = float(text)
        except ValueError:
            return None
    if not isinstance(value, (int, float)) or not 0 < value < 1e20:
        return None
    while value > _NEWEST_S:
        value /= 1000
    return float(value)


def _iso(day: str, time: str | None, sign: str | None, hours: str | None, minutes: str | None) -> float | None:
    try:
        moment = datetime.fromisoformat(f"{day} {time or '00:00'}").replace(tzinfo=timezone.utc).timestamp()
    except ValueError:
        return None
    offset = int(hours or 0) * 3600 + int(minutes or 0) * 60
    return moment - offset if sign != "-" else moment + offset
