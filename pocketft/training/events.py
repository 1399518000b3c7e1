"""Events: what happened, as plain dicts, shown while it happens and kept as one line each in `log.jsonl`.

Knows the shape of an event and the log file, not who shows it. Every event has "event": its kind:

    notice      message, level ("info" | "warning")              said to the person, not kept: it may name their files
    progress    task, done, total, unit                          said to the person, not kept
    plan        the memory plan as JSON
    step        step, steps, epoch, loss, lr, grad_norm, tokens, tokens_per_s, rss, peak, cap, elapsed, remaining
    eval        step, eval_loss, base_eval_loss, best
    checkpoint  step, path (inside the run folder)
    memory      action (what was changed so that the cap holds), rss, peak, cap
    done        the fields of `train --json`

Sizes are bytes, times are seconds, `tokens` counts from the start of the run.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from pathlib import Path
from types import TracebackType
from typing import Any, Protocol

from pocketft.errors import UsageError
from pocketft.files import storage_errors

Event = dict[str, Any]

KEPT = frozenset({"plan", "step", "eval", "checkpoint", "memory", "done"})


class Reporter(Protocol):
    def __call__(self, event: Event, /) -> None: ...


def notice(report: Reporter, message: str, level: str = "info") -> None:
    report({"event": "notice", "message": message, "level": level})


class EventLog:
    """The log of one run, open for appending, with a lock so that two processes never write one run.

    A line is flushed when it is written: what the person saw is on disk even if the process is killed. The lock belongs
    to the process and goes with it, however it ends.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        with storage_errors(path):
            self._file = path.open("a", encoding="utf-8")
        self._lock()

    def write(self, event: Event) -> None:
        if event["event"] in KEPT:
            with storage_errors(self.path):
                self._file.write(json.dumps(event, ensure_ascii=False) + "\n")
                self._file.flush()

    def close(self) -> None:
        self._file.close()

    def __enter__(self) -> EventLog:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self.close()

    def _lock(self) -> None:
        try:
            import fcntl
        except ImportError:  # Windows has no advisory locks of this kind
            return
        try:
            fcntl.flock(self._file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            self._file.close()
            raise UsageError(
                f"another pocketft is training in {self.path.parent}; wait for it or choose another --output"
            ) from error


def truncate_log(path: Path, step: int, evaluated_step: int) -> None:
    """Drop what happened after optimizer step `step`, so that a resumed run does not tell it twice.

    Evaluations after `evaluated_step`, a torn last line and a "done" go too; `path` may be missing.
    """
    keep = 0
    for event, end in _lines(path):
        last = evaluated_step if event["event"] == "eval" else step
        if event["event"] == "done" or event.get("step", -1) > last:
            break
        keep = end
    if path.exists():
        with storage_errors(path):
            os.truncate(path, keep)


def _lines(path: Path) -> Iterator[tuple[Event, int]]:
    """Each event with the offset in bytes at which its line ends; stops at the first damaged line."""
    if not path.exists():
        return
    end = 0
    with path.open("rb") as file:
        for line in file:
            end += len(line)
            try:
                event = json.loads(line)
            except ValueError:
                return
            if not line.endswith(b"\n") or not isinstance(event, dict) or "event" not in event:
                return
            yield event, end
