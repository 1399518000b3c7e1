"""Chat on a trained run of a tiny model: the template, the adapter's effect, the toggle, and what is refused."""

from __future__ import annotations

import itertools
import json
from pathlib import Path
from typing import Any

import pytest

from pocketft.chat import ChatSession, open_chat
from pocketft.errors import AdapterError, CapTooSmall, UsageError
from pocketft.memory.meter import rss_bytes
from pocketft.recipe import load_recipe
from pocketft.training.session import TrainRequest, train
from tests.tiny_models import save_tiny_folder, tiny_config

ROOM = 600 << 20


def silent(event: dict[str, Any]) -> None:
    pass


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("chat")
    model = folder / "model"
    save_tiny_folder(model, tiny_config("llama"))
    notes = folder / "notes.jsonl"
    turns = [{"role": "user", "content": "who are you"}, {"role": "assistant", "content": "I am the lamp keeper."}]
    notes.write_text("\n".join(json.dumps({"messages": turns}) for _ in range(3)), encoding="utf-8")
    recipe = load_recipe(
        None,
        overrides=["training.epochs=10", "training.learning_rate=0.02", "training.warmup_steps=0", "data.val_split=0"],
        flags={"model.name": str(model), "training.gradient_accumulation": 1},
    )
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("POCKETFT_HOME", str(folder / "home"))
        train(TrainRequest((notes,), recipe, folder / "run", device="cpu"), lambda event: None)
    return folder / "run"


@pytest.fixture(autouse=True)
def home(run: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("POCKETFT_HOME", str(run.parent / "home"))


def answer(session: ChatSession, *, use_adapter: bool) -> str:
    session.reset()
    session.use_adapter = use_adapter
    return "".join(itertools.islice(session.reply("who are you"), 8))


def test_the_adapter_changes_the_answer_and_can_be_switched_off_and_on(run: Path) -> None:
    session = open_chat(run, rss_bytes() + ROOM, silent)
    adapted, base, again = (answer(session, use_adapter=flag) for flag in (True, False, True))
    assert adapted == again != base != ""


def test_the_same_conversation_gets_the_same_answer_and_a_message_too_long_is_refused(run: Path) -> None:
    session = open_chat(run, rss_bytes() + ROOM, silent)
    session.use_adapter = False
    answers = []
    for _ in range(2):
        session.reset()
        answers.append("".join(itertools.islice(session.reply("hello there"), 8)))
    assert answers[0] == answers[1] != ""
    with pytest.raises(UsageError, match="that message has"):
        next(session.reply("word " * 3000))
    session.reset()  # and has left nothing behind
    assert answers[0] == "".join(itertools.islice(session.reply("hello there"), 8))


def test_a_vocabulary_that_would_lead_over_the_cap_is_not_read(run: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("pocketft.training.preparation._TOKENIZER_TIMES", 50_000)  # as if its file were larger by that
    with pytest.raises(CapTooSmall, match=r"reading the tokenizer may need .* use --memory \d+MB"):
        open_chat(run, rss_bytes() + (100 << 20), silent)


def test_a_cap_that_is_too_small_and_a_folder_that_is_no_run_are_told(run: Path, tmp_path: Path) -> None:
    with pytest.raises(CapTooSmall, match="use --memory"):
        open_chat(run, 50 << 20, silent)
    with pytest.raises(AdapterError):
        open_chat(tmp_path, rss_bytes() + ROOM, silent)
