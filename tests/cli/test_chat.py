"""chat: one answer and leave, or a conversation with its commands."""

from __future__ import annotations

import io
import sys
import types
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from pocketft.errors import UsageError
from tests.cli.run_cli import Ran


class Chat:
    def __init__(self) -> None:
        self.use_adapter = True
        self.turns = 0
        self.changes: list[dict[str, object]] = []

    def take_changes(self) -> list[dict[str, object]]:
        taken, self.changes = self.changes, []
        return taken

    def reply(self, text: str) -> Iterator[str]:
        if len(text) > 1000:
            raise UsageError("that message has 900 tokens; the limit is 768")
        self.turns += 1
        if text == "stop me":
            yield "half"
            self.changes.append({"event": "memory", "action": "block 3 packed", "rss": 500 << 20, "cap": 600 << 20})
            raise KeyboardInterrupt
        yield from (f"{'adapter' if self.use_adapter else 'base'}", f" {self.turns}", f": {text}")

    def reset(self) -> None:
        self.turns = 0


@pytest.fixture
def opened(monkeypatch: pytest.MonkeyPatch) -> list[tuple[Path, int]]:
    calls: list[tuple[Path, int]] = []
    module = types.ModuleType("pocketft.chat")

    def open_chat(run: Path, memory_cap_bytes: int, report: Callable[[dict[str, str]], None]) -> Chat:
        calls.append((run, memory_cap_bytes))
        report({"event": "notice", "message": "SmolLM2: Apache-2.0"})
        return Chat()

    module.open_chat = open_chat  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "pocketft.chat", module)
    return calls


def test_one_prompt_one_answer(pocketft: Callable[..., Ran], opened: list[tuple[Path, int]], notes: str) -> None:
    ran = pocketft("chat", notes, "--prompt", "Who?", "--memory", "600MB")
    assert (ran.code, ran.out, ran.err) == (0, "adapter 1: Who?\n", "SmolLM2: Apache-2.0\n")
    assert opened == [(Path(notes), 600 << 20)]


def test_the_default_cap_leaves_room_for_others(
    pocketft: Callable[..., Ran], opened: list[tuple[Path, int]], notes: str
) -> None:
    import psutil

    pocketft("chat", notes, "--prompt", "Who?")
    assert 0 < opened[0][1] < psutil.virtual_memory().total * 0.6


def test_a_conversation_and_its_commands(
    pocketft: Callable[..., Ran], opened: list[tuple[Path, int]], notes: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    said = "one\n\n/base\ntwo\n/base\n/reset\nthree\n/help\n/nonsense x\nstop me\nfour\n/exit\nnever\n"
    monkeypatch.setattr(sys, "stdin", io.StringIO(said))
    ran = pocketft("chat", notes)
    assert ran.code == 0
    assert ran.out.splitlines() == ["adapter 1: one", "base 2: two", "adapter 1: three", "half", "adapter 3: four"]
    assert "adapter off" in ran.err and "adapter on" in ran.err and "forgotten" in ran.err
    assert ran.err.count("memory: block 3 packed (500 MB of 600 MB in use)") == 1
    assert "/reset" in ran.err and "no command /nonsense" in ran.err


def test_a_message_that_is_too_long_does_not_end_the_conversation(
    pocketft: Callable[..., Ran], opened: list[tuple[Path, int]], notes: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys, "stdin", io.StringIO(f"one\n{'long ' * 1000}\ntwo\n"))
    ran = pocketft("chat", notes)
    assert (ran.code, ran.out.splitlines()) == (0, ["adapter 1: one", "adapter 2: two"])
    assert "that message has 900 tokens" in ran.err
    assert pocketft("chat", notes, "--prompt", "long " * 1000).code == 2


def test_bytes_that_are_no_letters_do_not_end_the_conversation(
    pocketft: Callable[..., Ran], opened: list[tuple[Path, int]], notes: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    for words in (["chat", notes], ["chat", notes, "--prompt", "-"]):
        monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(b"caf\xe9"), encoding="utf-8"))
        ran = pocketft(*words)
        assert (ran.code, ran.out) == (0, "adapter 1: caf\ufffd\n")


def test_the_end_of_input_ends_the_conversation(
    pocketft: Callable[..., Ran], opened: list[tuple[Path, int]], notes: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys, "stdin", io.StringIO("one"))
    assert pocketft("chat", notes).out == "adapter 1: one\n"


def test_a_run_that_is_not_there_is_named(pocketft: Callable[..., Ran]) -> None:
    ran = pocketft("chat", "nowhere")
    assert ran.code == 2 and "nowhere" in ran.err
