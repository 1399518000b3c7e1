"""Which processor this is: its name and its features."""

from __future__ import annotations

import platform
from pathlib import Path


def processor() -> tuple[str, frozenset[str]]:
    """As /proc/cpuinfo has them; elsewhere the name that Python knows, and no features."""
    name, features = "", frozenset[str]()
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8", errors="replace").splitlines()
    except OSError:  # not Linux
        lines = []
    for line in lines:
        key, _, value = line.partition(":")
        if key.strip() == "model name" and not name:
            name = value.strip()
        elif key.strip() in ("flags", "Features") and not features:  # x86, ARM
            features = frozenset(value.split())
    return name or platform.processor() or platform.machine(), features
