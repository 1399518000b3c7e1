"""What the person sees: results on stdout, everything else on stderr, as plain lines or as a live view.

Knows how events and numbers are worded and nothing of where they come from. With `--json` stdout holds one JSON value.
"""

from __future__ import annotations

import codecs
import dataclasses
import json
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TextIO

from pocketft.memory.size import format_size

Event = dict[str, Any]
Report = Callable[[Event], None]

_PLAIN_INTERVAL_S = 5.0  # a log file of a night's training should stay readable; log.jsonl has every step


@contextmanager
def reporter(title: str = "") -> Iterator[Report]:
    """The live view where stderr is a terminal, plain lines otherwise."""
    if sys.stderr.isatty():
        from pocketft.cli.live import LiveView

        with LiveView(title) as view:
            yield view
    else:
        yield PlainLines()


class PlainLines:
    """One line per event on stderr; steps and progress only every few seconds, the first and the last always."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._last: dict[str, float] = {}

    def __call__(self, event: Event) -> None:
        kind = event["event"]
        if kind == "step":
            ends = event["step"] in (1, event.get("steps"))
            if not ends and not self._due("step"):
                return
        elif kind == "progress":
            key = f"progress {event.get('task')}"
            ends = event.get("done") == event.get("total")
            if not ends and not self._due(key):
                return
        for line in describe(event):
            print(line, file=sys.stderr, flush=True)

    def _due(self, key: str) -> bool:
        now = self._clock()
        if key in self._last and now - self._last[key] < _PLAIN_INTERVAL_S:
            return False
        self._last[key] = now
        return True


def describe(event: Event) -> list[str]:
    """An event in words; no lines for what needs none."""
    match event["event"]:
        case "notice":
            return [f"warning: {event['message']}" if event.get("level") == "warning" else str(event["message"])]
        case "progress":
            return [_progress_words(event)]
        case "plan":
            from pocketft.cli.plan import plan_lines

            return plan_lines(event)
        case "step":
            return [step_words(event)]
        case "eval":
            return [eval_words(event)]
        case "checkpoint":
            return [f"saved checkpoint at step {event['step']}"]
        case "memory":
            return [memory_words(event)]
    return []


def step_words(event: Event) -> str:
    parts = [f"step {event['step']}/{event['steps']}", f"loss {event['loss']:.4f}"]
    if event.get("tokens_per_s"):
        parts.append(f"{event['tokens_per_s']:.0f} tokens/s")
    if event.get("rss") and event.get("cap"):
        parts.append(f"{format_size(event['rss'])} of {format_size(event['cap'])}")
    if event.get("remaining") is not None:
        parts.append(f"{duration(event['remaining'])} left")
    return " · ".join(parts)


def eval_words(event: Event) -> str:
    words = f"held-out loss {event['eval_loss']:.4f} at step {event['step']}"
    if event.get("base_eval_loss") is not None:
        words += f" (base {event['base_eval_loss']:.4f})"
    return words + (" · best so far" if event.get("best") else "")


def memory_words(event: Event) -> str:
    return f"memory: {event['action']} ({format_size(event['rss'])} of {format_size(event['cap'])} in use)"


def _progress_words(event: Event) -> str:
    done, total, unit = event.get("done") or 0, event.get("total"), event.get("unit") or ""
    task = event.get("task") or "working"
    if unit in ("B", "bytes"):
        amount = format_size(done) + (f" of {format_size(total)}" if total else "")
    else:
        amount = f"{done:,.0f}" + (f" of {total:,.0f}" if total else "") + (f" {unit}" if unit else "")
    return f"{task}: {amount}" + (f" ({100 * done / total:.0f}%)" if total else "")


def duration(seconds: float) -> str:
    """ "0:42", "12:05", "3:07:00": what a clock shows."""
    whole = max(0, round(seconds))
    hours, rest = divmod(whole, 3600)
    return f"{hours}:{rest // 60:02d}:{rest % 60:02d}" if hours else f"{rest // 60}:{rest % 60:02d}"


def notice(message: str) -> None:
    print(message, file=sys.stderr, flush=True)


def print_json(value: Any) -> None:
    print(json.dumps(plain(value), ensure_ascii=not _writes_utf8(sys.stdout), indent=2))


def _writes_utf8(stream: TextIO) -> bool:
    """Where it does not, a letter that it lacks would become a question mark; escaped, JSON keeps it."""
    return codecs.lookup(stream.encoding or "ascii").name == "utf-8"


def facts(rows: Sequence[tuple[str, object]]) -> None:
    """Name and value in two columns; rows without a value are left out."""
    shown = [(name, str(value)) for name, value in rows if value not in (None, "")]
    width = max((len(name) for name, _ in shown), default=0)
    for name, value in shown:
        print(f"{name:<{width}}  {value}")


def table(header: Sequence[str], rows: Sequence[Sequence[object]]) -> None:
    """Columns padded with spaces, never cut: a pipe gets the same words as a terminal."""
    from rich.cells import cell_len  # counts a wide character as the two columns it takes

    cells = [[str("" if value is None else value) for value in row] for row in [header, *rows]]
    widths = [max(cell_len(row[column]) for row in cells) for column in range(len(header))]
    for number, row in enumerate(cells):
        padded = [value + " " * (width - cell_len(value)) for value, width in zip(row, widths, strict=True)]
        line = "  ".join(padded).rstrip()
        print(f"\033[1m{line}\033[0m" if number == 0 and colours() else line)


def colours() -> bool:
    import os

    return sys.stdout.isatty() and not os.environ.get("NO_COLOR") and os.environ.get("TERM") != "dumb"


def plain(value: Any) -> Any:
    """Dataclasses, paths and tuples as JSON has them; a number that is not finite as null."""
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return {field.name: plain(getattr(value, field.name)) for field in dataclasses.fields(value)}
    if isinstance(value, dict):
        return {str(key): plain(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [plain(item) for item in value]
    if isinstance(value, Path):
        return str(value)
    if (isinstance(value, float) and value != value) or value in (float("inf"), float("-inf")):
        return None
    return value
