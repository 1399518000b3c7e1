"""`pocketft data`: the list of kinds, the export, and how an inspection is shown."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import types
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from pocketft import __file__ as package_file
from pocketft.cli.data import _show
from tests.cli.run_cli import Ran

CHAT = "1/2/24, 10:00 - Anna: Are you coming to the boat?\n1/2/24, 10:01 - Ben: Yes, at ten I think.\n"
SEEN: dict[str, Any] = {
    "read": {"markdown": 1200, "whatsapp": 30}, "files": {"markdown": 1200, "whatsapp": 1},
    "characters": {"markdown": 2_400_000, "whatsapp": 60_000}, "documents": 1230, "chats": 30, "tokens": 600_000,
    "loss_tokens": 590_000, "train_tokens": 570_000, "train_rows": 1150, "val_tokens": 30_000, "val_rows": 60,
    "dates": ["2021-03-01", "2024-05-06"], "languages": {"en": 1000, "de": 230}, "people": [["Anna", 40], ["Ben", 50]],
    "voice": "Ben", "voice_guessed": True, "lengths": [{"first": 64, "last": 127, "documents": 1200},
                                                       {"first": 128, "last": 255, "documents": 30}],
    "samples": ["One\n\ntwo " * 60], "epoch": {"steps": 288, "tokens_per_s": 500.0, "seconds": 1140.0},
    "notices": ["left out 3 duplicates"],
}  # fmt: skip


def test_every_kind_that_is_read_is_listed(pocketft: Callable[..., Ran]) -> None:
    kinds = json.loads(pocketft("data", "--json").out)
    assert {kind["kind"] for kind in kinds} >= {
        "text", "markdown", "org", "html", "pdf", "docx", "epub", "mail", "whatsapp", "telegram", "signal", "discord",
        "slack", "chatgpt", "claude", "jsonl", "json", "table", "code",
    }  # fmt: skip
    assert all(kind["what"].endswith(".") for kind in kinds)


def test_documents_are_exported_as_they_would_be_learned(pocketft: Callable[..., Ran]) -> None:
    Path("chat.txt").write_text(CHAT)
    ran = pocketft("data", "export", "chat.txt", "--me", "Ben")
    assert ran.code == 0 and "1 document" in ran.err
    assert json.loads(ran.out)["messages"] == [
        {"role": "user", "content": "Are you coming to the boat?"},
        {"role": "assistant", "content": "Yes, at ten I think."},
    ]
    ran = pocketft("data", "export", "chat.txt", "-o", "out.jsonl")
    assert (ran.code, ran.out) == (0, "") and "--me" in ran.err
    assert json.loads(Path("out.jsonl").read_text())["text"].startswith("Anna: Are you")


def test_an_export_of_nothing_fails_and_writes_nothing(pocketft: Callable[..., Ran]) -> None:
    Path("a.png").write_bytes(b"\x89PNG\r\n")
    ran = pocketft("data", "export", "a.png", "-o", "out.jsonl")
    assert ran.code == 1 and "nothing to export: skipped 1 (1 binary file (PNG image)" in ran.err
    assert not Path("out.jsonl").exists()


def test_an_export_to_stdout_is_utf_8_whatever_a_terminal_shows(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("a.txt").write_text("Łódź is where we waited for the train. 🙂", encoding="utf-8")
    ran = subprocess.run(
        [sys.executable, "-m", "pocketft", "data", "export", "a.txt"],
        capture_output=True,
        env={**os.environ, "PYTHONIOENCODING": "ascii", "PYTHONPATH": str(Path(package_file).parent.parent)},
    )
    assert json.loads(ran.stdout.decode())["text"] == "Łódź is where we waited for the train. 🙂"


def test_an_export_does_not_replace_a_folder(pocketft: Callable[..., Ran]) -> None:
    Path("a.txt").write_text("It rained all day long.")
    Path("folder").mkdir()
    for words in (["-o", "folder"], ["-o", "folder", "--force"]):
        ran = pocketft("data", "export", "a.txt", *words)
        assert ran.code == 2 and "folder is a folder; name a file with --output" in ran.err
    ran = pocketft("data", "export", "a.txt", "-o", "long" * 100)
    assert ran.code == 1 and "too long" in ran.err and "unexpected" not in ran.err


def test_a_path_that_is_too_long_is_missing(pocketft: Callable[..., Ran]) -> None:
    Path("a.txt").write_text("It rained all day long.")
    for words in (["long" * 100], ["a.txt", "--recipe", "long" * 100]):
        ran = pocketft("data", "export", *words)
        assert ran.code == 2 and "no such file" in ran.err


def test_a_column_is_named_on_the_command_line(pocketft: Callable[..., Ran]) -> None:
    Path("a.csv").write_text("day,what\n1,It snowed all day long.\n")
    assert pocketft("data", "export", "a.csv").code == 1
    assert "It snowed" in pocketft("data", "export", "a.csv", "--column", "what").out


def test_an_inspection_is_one_object_or_a_page(pocketft: Callable[..., Ran], monkeypatch: pytest.MonkeyPatch) -> None:
    Path("a.txt").write_text("words")
    requests = []
    stand_in = types.ModuleType("pocketft.training.look")
    stand_in.look = lambda request, report: requests.append(request) or SEEN  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "pocketft.training.look", stand_in)
    monkeypatch.setitem(sys.modules, "pocketft.training.session", _session())
    ran = pocketft("data", "inspect", "a.txt", "--me", "Ben", "--column", "x", "--json")
    assert json.loads(ran.out) == SEEN
    assert (requests[0].recipe.data.me, requests[0].recipe.data.column) == ("Ben", "x")
    page = pocketft("data", "inspect", "a.txt").out
    for words in ("whatsapp", "1,230, 30 of them chats", "2021-03-01 to 2024-05-06", "en 1,000, de 230",
                  "Ben (guessed)", "19:00 at 500 tokens/s", "64-127", "left out 3 duplicates",
                  "sample 1: One two"):  # fmt: skip
        assert words in page


def _session() -> types.ModuleType:
    from tests.cli.run_cli import Session

    return Session()


def test_an_inspection_without_chats_dates_or_a_plan_is_shown(capsys: pytest.CaptureFixture[str]) -> None:
    _show(SEEN | {"people": [], "dates": [None, None], "epoch": None, "chats": 0, "val_rows": 0, "notices": []})
    out = capsys.readouterr().out
    assert "voice" not in out and "one epoch" not in out and "dates" not in out and "nothing" in out
