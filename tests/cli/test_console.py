"""How events are worded, as plain lines and in the live view."""

from __future__ import annotations

import io
import json
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console

from pocketft.cli import console
from pocketft.cli.console import PlainLines, describe, duration, print_json
from pocketft.cli.live import LiveView

MB = 1 << 20


def step(number: int, loss: float = 2.5, **changes: Any) -> dict[str, Any]:
    return {
        "event": "step", "step": number, "steps": 10, "epoch": 0, "loss": loss, "lr": 2e-4, "grad_norm": 1.0,
        "tokens": 2048 * number, "tokens_per_s": 571.0, "rss": 500 * MB, "peak": 510 * MB, "cap": 700 * MB,
        "elapsed": 3.0, "remaining": 75.0,
    } | changes  # fmt: skip


def progress(done: int, total: int | None = 100, unit: str = "B") -> dict[str, Any]:
    return {"event": "progress", "task": "fetching", "done": done, "total": total, "unit": unit}


EVAL = {"event": "eval", "step": 5, "eval_loss": 2.4, "base_eval_loss": 2.9, "best": True}
EVENTS = [
    {"event": "notice", "message": "a.txt line 3: bad [JSON]", "level": "warning"},
    progress(1),
    progress(100),
    {"event": "plan", "predicted_peak_bytes": 610 * MB, "cap_bytes": 700 * MB},
    step(1),
    EVAL,
    {"event": "checkpoint", "step": 5, "path": "checkpoints/checkpoint-5"},
    {"event": "memory", "action": "blocks 3-9 now streamed", "rss": 612 << 20, "peak": 620 << 20, "cap": 640 << 20},
    step(2, loss=float("nan"), remaining=None, tokens_per_s=None),
    {"event": "done", "loss": 2.0},
    {"event": "something later"},
]


class Clock:
    now = 0.0

    def __call__(self) -> float:
        return self.now


def test_plain_lines_show_the_first_the_last_and_one_in_a_while(capsys: pytest.CaptureFixture[str]) -> None:
    clock = Clock()
    lines = PlainLines(clock)
    for number in range(1, 11):
        clock.now = number * 2.0
        lines(step(number))
    shown = [line.split(" ")[1] for line in capsys.readouterr().err.splitlines()]
    assert shown == ["1/10", "2/10", "5/10", "8/10", "10/10"]


def test_plain_progress_shows_its_end_however_soon(capsys: pytest.CaptureFixture[str]) -> None:
    lines = PlainLines(Clock())
    for done in (0, 1, 50, 100):
        lines(progress(done))
    assert capsys.readouterr().err.splitlines() == ["fetching: 0 B of 100 B (0%)", "fetching: 100 B of 100 B (100%)"]


def test_warnings_say_so_and_evaluations_name_the_base() -> None:
    assert describe(EVENTS[0]) == ["warning: a.txt line 3: bad [JSON]"]
    assert describe(EVAL) == ["held-out loss 2.4000 at step 5 (base 2.9000) · best so far"]
    assert describe(progress(3, None, "documents")) == ["fetching: 3 documents"]


@pytest.mark.parametrize(
    ("seconds", "text"), [(0, "0:00"), (42.4, "0:42"), (725, "12:05"), (11220, "3:07:00"), (-3, "0:00")]
)
def test_durations_read_like_a_clock(seconds: float, text: str) -> None:
    assert duration(seconds) == text


@pytest.mark.parametrize("encoding", ["utf-8", "ascii"])
@pytest.mark.parametrize("width", [30, 80, 200])
def test_the_live_view_takes_every_event_at_every_width(encoding: str, width: int) -> None:
    raw = io.BytesIO()
    file = io.TextIOWrapper(raw, encoding=encoding, errors="replace")  # as the program sets its own streams
    screen = Console(file=file, width=width, force_terminal=True, legacy_windows=False)
    with LiveView("smollm2-135m", console=screen) as view:
        for event in EVENTS:
            view(event)
    file.flush()
    shown = raw.getvalue().decode(encoding)
    if width == 200:
        for part in (
            "bad [JSON]",
            "held-out loss 2.4",
            "500 MB of 700 MB",
            "1:15 left",
            "571 tokens/s",
            "blocks 3-9 now streamed (612 MB of 640 MB in use)",
        ):
            assert part in shown
    assert shown.rindex("\x1b[?25h") > shown.rindex("\x1b[?25l")  # the cursor is back


def test_the_cursor_comes_back_after_a_failure() -> None:
    file = io.StringIO()
    with pytest.raises(KeyboardInterrupt), LiveView(console=Console(file=file, force_terminal=True)) as view:
        view(step(1))
        raise KeyboardInterrupt
    assert "\x1b[?25h" in file.getvalue()


def test_the_sparkline_falls_with_the_loss() -> None:
    view = LiveView(console=Console(file=io.StringIO(), force_terminal=True))
    for number, loss in enumerate([3.0, 2.5, float("inf"), 2.0], start=1):
        view(step(number, loss))
    marks = view.sparkline()
    assert len(marks) == 4
    assert marks[2] == "x"
    assert marks[0] > marks[1] > marks[3]


def test_json_has_no_number_that_json_does_not(capsys: pytest.CaptureFixture[str]) -> None:
    @dataclass(frozen=True)
    class Inner:
        path: Path
        values: tuple[float, ...]

    console.print_json({"inner": Inner(Path("a/b"), (1.0, float("nan"), float("inf"))), "text": "å"})
    text = capsys.readouterr().out
    assert "å" in text
    assert json.loads(text) == {"inner": {"path": "a/b", "values": [1.0, None, None]}, "text": "å"}


def test_tables_line_up_wide_characters(capsys: pytest.CaptureFixture[str]) -> None:
    console.table(["a", "b"], [["日本", 1], ["x", None], ["xyz", 2]])
    assert capsys.readouterr().out.splitlines() == ["a     b", "日本  1", "x", "xyz   2"]


@pytest.mark.parametrize("encoding", ["utf-8", "ascii", "cp1252"])
def test_json_keeps_every_letter_whatever_stdout_can_show(encoding: str, monkeypatch: pytest.MonkeyPatch) -> None:
    written = io.BytesIO()
    monkeypatch.setattr(sys, "stdout", io.TextIOWrapper(written, encoding=encoding, errors="replace"))
    print_json({"name": "Łódź 🙂"})
    sys.stdout.flush()
    assert json.loads(written.getvalue().decode(encoding)) == {"name": "Łódź 🙂"}
    assert (b"\\u" in written.getvalue()) == (encoding != "utf-8")
