"""What a person would not want learned: after a whole run with the real engine, no file anywhere holds it."""

from __future__ import annotations

import csv
import json
import os
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from tokenizers import Tokenizer

from pocketft.errors import DataError
from pocketft.recipe import load_recipe
from pocketft.training.evaluate import evaluate
from pocketft.training.session import TrainRequest, plan, train
from tests.data.secrets.planted import planted
from tests.training.conftest import World


def write_everywhere(folder: Path, secrets: list[tuple[str, str, str]]) -> None:
    """Each secret in a note, a record, a conversation and a table."""
    folder.mkdir()
    for number, (_, sentence, secret) in enumerate(secrets):
        said = sentence.format(secret)
        (folder / f"{number:02}.md").write_text(
            f"---\ntitle: day {number}\n---\nThe lamp was lit.\n\n{said}\n\nIt rained.\n"
        )
    texts = [f"On day {number} we wrote: {one.format(secret)}" for number, (_, one, secret) in enumerate(secrets)]
    (folder / "records.jsonl").write_text("".join(json.dumps({"text": text}) + "\n" for text in texts))
    chats = [
        [{"role": "user", "content": f"What was it? {text}"}, {"role": "assistant", "content": f"It was: {text}"}]
        for text in texts
    ]
    (folder / "chats.jsonl").write_text("".join(json.dumps({"messages": chat}) + "\n" for chat in chats))
    with (folder / "table.csv").open("w", newline="") as file:
        csv.writer(file).writerows(
            [["number", "text"], *([number, f"Row: {text}"] for number, text in enumerate(texts))]
        )


def request(world: World, text: Path, output: Path, *overrides: str) -> TrainRequest:
    usual = [f"model.name={world.base}", "data.max_seq_length=128", "data.val_split=0.2", "training.save_steps=2"]
    return TrainRequest((text,), load_recipe(None, [*usual, *overrides]), output, max_steps=4)


def all_files(*folders: Path) -> list[Path]:
    return [path for folder in folders for path in folder.rglob("*") if path.is_file()]


def test_no_file_that_a_run_writes_holds_a_planted_secret(world: World, tmp_path: Path) -> None:
    secrets = planted(seed=23)
    assert len({kind for kind, _, _ in secrets}) == 8 and len(secrets) > 30
    write_everywhere(tmp_path / "text", secrets)
    cache = Path(os.environ["POCKETFT_HOME"])
    before = set(all_files(cache))
    events: list[dict[str, Any]] = []
    train(request(world, tmp_path / "text", tmp_path / "run"), events.append)
    evaluate(tmp_path / "run", (tmp_path / "text",), events.append)

    written = [path for path in all_files(tmp_path / "run", cache) if path not in before]
    assert {"tokens.i32", "summary.json", "log.jsonl", "README.md", "state.json"} <= {path.name for path in written}
    tokenizer = Tokenizer.from_file(str(world.base / "tokenizer.json"))
    contents = [path.read_bytes().decode("utf-8", "replace") for path in written]
    contents += [
        tokenizer.decode(np.fromfile(path, dtype="<i4").tolist(), skip_special_tokens=False)
        for path in written
        if path.name == "tokens.i32"
    ]
    contents.append(json.dumps(events))
    for kind, _, secret in secrets:
        words = secret.splitlines()[1:-1] if kind == "PRIVATE_KEY" and "\n" in secret else [secret]
        assert not [word for word in words for content in contents if word in content], kind

    told = " ".join(event["message"] for event in events if event["event"] == "notice")
    assert "replaced by placeholders" in told and "API keys (text/" in told
    accounts = [json.loads(path.read_text()) for path in written if path.name == "summary.json"]
    places = next(one["reading"]["cleaning"]["secret_places"] for one in accounts if "reading" in one)
    assert places["API_KEY"][0] == "text/00.md:6" and "text/chats.jsonl:14" in places["TOKEN"]


def test_refused_secrets_leave_nothing_behind(world: World, tmp_path: Path) -> None:
    write_everywhere(tmp_path / "text", planted(seed=24)[:3])
    cache = Path(os.environ["POCKETFT_HOME"]) / "data"
    before = set(cache.iterdir()) if cache.exists() else set()
    with pytest.raises(DataError, match=r"the text holds \d+ API keys \(text/00.md:6"):
        plan(request(world, tmp_path / "text", tmp_path / "run", "data.secrets=refuse"), lambda event: None)
    assert set(cache.iterdir()) == before and not (tmp_path / "run").exists()
