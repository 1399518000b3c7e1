"""A process seen from outside: its memory, and when it was ready and through its first step."""

from __future__ import annotations

import sys
import time
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

import psutil

_LINUX = sys.platform.startswith("linux")


@dataclass
class Watch:
    """What is seen of a process while it runs; sizes in bytes, times in seconds since `started`."""

    pid: int
    log: Path
    started: float
    peak_bytes: int = 0
    anonymous_bytes: int | None = None
    ready_s: float | None = None
    first_step_s: float | None = None

    def look(self) -> None:
        self._look_at_memory()
        if self.first_step_s is None:
            self._look_at_log()

    def _look_at_memory(self) -> None:
        if not _LINUX:
            with suppress(psutil.Error):
                self.peak_bytes = max(self.peak_bytes, psutil.Process(self.pid).memory_info().rss)
            return
        with suppress(OSError):
            status = Path(f"/proc/{self.pid}/status").read_text()
            self.peak_bytes = max(self.peak_bytes, _status_bytes(status, "VmHWM") or 0)
            anonymous = _status_bytes(status, "RssAnon")
            if anonymous is not None:
                self.anonymous_bytes = max(self.anonymous_bytes or 0, anonymous)

    def _look_at_log(self) -> None:
        try:
            text = self.log.read_text(encoding="utf-8")
        except OSError:
            return
        now = time.perf_counter() - self.started
        if "\n" in text and self.ready_s is None:
            self.ready_s = now
        if '"event": "step"' in text:
            self.first_step_s = now


def _status_bytes(status: str, name: str) -> int | None:
    for line in status.splitlines():
        if line.startswith(name + ":"):
            return int(line.split()[1]) * 1024
    return None
