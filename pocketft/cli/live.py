"""The live view of a run on a terminal: how far, how good, how fast, how much memory.

Knows events and Rich. Lines that should stay (notices, evaluations) scroll by above the view.
"""

from __future__ import annotations

from collections import deque
from types import TracebackType
from typing import Any

from rich.console import Console, Group
from rich.live import Live
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

from pocketft.cli.console import Event, describe, duration
from pocketft.memory.size import format_size

_SPARKS = "▁▂▃▄▅▆▇█"
_SPARKS_ASCII = "_.-=+*#@"
_BAR_WIDTH = 40
_LOSSES_SHOWN = 40


class LiveView:
    """Call it with events; use it as a context so that the cursor comes back however the run ends."""

    def __init__(self, title: str = "", console: Console | None = None) -> None:
        self.console = console or Console(stderr=True, highlight=False)
        self._title = title
        self._losses: deque[float] = deque(maxlen=_LOSSES_SHOWN)
        self._step: Event | None = None
        self._eval: Event | None = None
        self._progress: Event | None = None
        # No refresh thread: it would redraw while the training thread holds the interpreter, and an event comes often
        # enough.
        self._live = Live(Text(""), console=self.console, auto_refresh=False, transient=True)

    def __enter__(self) -> LiveView:
        self._live.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self._live.stop()

    def __call__(self, event: Event) -> None:
        match event["event"]:
            case "step":
                self._step, self._progress = event, None
                self._losses.append(event["loss"])
            case "progress":
                done, total = event.get("done"), event.get("total")
                self._progress = None if total and done == total else event
                if self._progress is None:
                    self._keep(event)
            case "eval":
                self._eval = event
                self._keep(event)
            case "checkpoint":
                pass  # every few seconds on a small model; the folder is named at the end
            case "done":
                self._step = self._progress = None
            case _:
                self._keep(event)
        self._live.update(self.render(), refresh=True)

    def _keep(self, event: Event) -> None:
        for line in describe(event):
            style = "yellow" if event.get("level") == "warning" else ""
            self.console.print(Text(line, style=style), soft_wrap=True)

    def render(self) -> Group:
        rows = Table.grid(padding=(0, 1))
        rows.add_column(style="dim", no_wrap=True)
        rows.add_column(no_wrap=True)
        rows.add_column(no_wrap=True, overflow="ellipsis")
        if self._progress is not None:
            self._add_progress(rows, self._progress)
        elif self._step is not None:
            self._add_step(rows, self._step)
        return Group(*([Text(self._title, style="bold", no_wrap=True)] if self._title and rows.row_count else []), rows)

    def _add_progress(self, rows: Table, event: Event) -> None:
        total = event.get("total")
        bar = ProgressBar(total=total or None, completed=event.get("done") or 0, width=_BAR_WIDTH, pulse=not total)
        rows.add_row(event.get("task") or "", bar, describe(event)[0].partition(": ")[2])

    def _add_step(self, rows: Table, event: Event) -> None:
        left = f"{duration(event['remaining'])} left" if event.get("remaining") is not None else ""
        bar = ProgressBar(total=event["steps"], completed=event["step"], width=_BAR_WIDTH)
        rows.add_row("step", bar, f"{event['step']}/{event['steps']}  {left}")
        held_out = ""
        if self._eval is not None:
            held_out = f"held out {self._eval['eval_loss']:.3f}"
            if self._eval.get("base_eval_loss") is not None:
                held_out += f"  base {self._eval['base_eval_loss']:.3f}"
        rows.add_row("loss", Text(self.sparkline(), style="cyan"), f"{event['loss']:.3f}  {held_out}")
        if event.get("cap") and event.get("rss"):
            share = event["rss"] / event["cap"]
            style = "red" if share > 0.97 else "yellow" if share > 0.9 else "green"
            bar = ProgressBar(total=event["cap"], completed=event["rss"], width=_BAR_WIDTH, complete_style=style)
            peak = f"  peak {format_size(event['peak'])}" if event.get("peak") else ""
            rows.add_row("memory", bar, f"{format_size(event['rss'])} of {format_size(event['cap'])}{peak}")
        speed = f"{event['tokens_per_s']:.0f} tokens/s" if event.get("tokens_per_s") else ""
        rate = f"learning rate {event['lr']:.1e}" if event.get("lr") is not None else ""
        rows.add_row("speed", speed, rate)

    def sparkline(self) -> str:
        """The last losses, lowest to highest over the marks; what is not finite shows as a cross."""
        marks = _SPARKS if self.console.encoding.lower().startswith("utf") else _SPARKS_ASCII
        finite = [loss for loss in self._losses if _is_finite(loss)]
        low, high = min(finite, default=0.0), max(finite, default=0.0)
        scale = (len(marks) - 1) / (high - low) if high > low else 0.0
        return "".join(marks[round((loss - low) * scale)] if _is_finite(loss) else "x" for loss in self._losses)


def _is_finite(value: Any) -> bool:
    return isinstance(value, (int, float)) and abs(value) < float("inf")
