"""Sizes as people write them: "1.5GB" to bytes and back.

Knows numbers and units, nothing of this machine. 1 GB is 1024³ bytes, as `ulimit`, task managers and memory modules
mean it; "GiB" says the same.
"""

from __future__ import annotations

import re

from pocketft.errors import UsageError

_UNITS = {"": 0, "K": 1, "M": 2, "G": 3, "T": 4}
_SIZE = re.compile(r"\s*(\d+(?:\.\d*)?|\.\d+)\s*(?:([KMGT])I?B?|(B|BYTES?))\s*", re.IGNORECASE)


def parse_size(text: str) -> int:
    """Bytes of "700MB", "1.5 GB", "2g" or "512MiB". Raises UsageError for anything else, and for zero."""
    match = _SIZE.fullmatch(text)
    if match is None:
        raise UsageError(f"{text!r:.60} is not a size; write a number and a unit, for example 700MB or 1.5GB")
    number, unit, _ = match.groups()
    size_bytes = int(float(number) * 1024 ** _UNITS[(unit or "").upper()])
    if not 0 < size_bytes < 2**60:
        raise UsageError(f"{text!r:.60} is not a size that a machine has; write for example 700MB or 1.5GB")
    return size_bytes


def format_size(size_bytes: float) -> str:
    """ "812 MB", "1.25 GB": three figures, which is what a person compares."""
    if size_bytes < 0:
        return "-" + format_size(-size_bytes)
    if size_bytes < 1024:
        return f"{size_bytes:.0f} B"
    value, units = float(size_bytes), iter(("KB", "MB", "GB", "TB"))
    unit = ""
    while unit != "TB" and (value >= 1023.5 or not unit):  # 1023.5 would be written "1024 MB"
        value, unit = value / 1024, next(units)
    figures = f"{value:.0f}" if value >= 100 else f"{value:.1f}" if value >= 10 else f"{value:.2f}"
    return f"{figures.rstrip('0').rstrip('.') if '.' in figures else figures} {unit}"
