"""An inspection tells what a run would learn and how long an epoch takes, and writes nothing."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from pocketft.recipe import load_recipe
from pocketft.training.look import look
from pocketft.training.session import TrainRequest
from tests.training.conftest import World


def inspected(world: World, output: Path, *overrides: str, data: Path | None = None) -> dict[str, Any]:
    recipe = load_recipe(None, [f"model.name={world.base}", "data.max_seq_length=64", *overrides])
    return look(TrainRequest((data or world.text,), recipe, output, device="cpu"), lambda event: None)


def test_the_account_adds_up(world: World, tmp_path: Path) -> None:
    seen = inspected(world, tmp_path / "run")
    assert seen["read"] == {"text": 40} == seen["files"] and seen["documents"] == 40
    assert sum(entry["documents"] for entry in seen["lengths"]) == 40
    assert len(seen["samples"]) == 3 and all(seen["samples"])
    assert seen["epoch"]["steps"] > 0 and seen["epoch"]["seconds"] > 0
    assert seen["dates"] == [None, None] and seen["voice"] == "" and not (tmp_path / "run").exists()
    json.dumps(seen)


def test_chats_show_voice_people_and_dates(world: World, tmp_path: Path) -> None:
    path = tmp_path / "WhatsApp Chat with Anna.txt"
    path.write_text(
        "".join(
            f"{day:02}.03.24, 10:0{minute} - {name}: The {word} is by the wall, and it is day {day}.\n"
            for day, word in enumerate(("boat", "lamp", "rope", "bread", "salt", "letter"), start=1)
            for minute, name in enumerate(("Anna", "Ben"))
        )
    )
    seen = inspected(world, tmp_path / "run", "data.val_split=0", data=path)
    assert (seen["voice"], seen["voice_guessed"], seen["chats"]) == ("Ben", True, 6)
    assert seen["dates"] == ["2024-03-01", "2024-03-06"] and seen["people"] == [["Anna", 6], ["Ben", 6]]


def test_a_cap_that_is_too_small_is_told_beside_the_rest(world: World, tmp_path: Path) -> None:
    seen = inspected(world, tmp_path / "run", "memory.max=64MB")
    assert seen["epoch"] is None and seen["documents"] == 40 and "memory" in seen["notices"][-1]
