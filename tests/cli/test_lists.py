"""Bare group names list what there is; results are for a pipe as much as for a person."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import yaml

from pocketft.recipe import load_recipe
from tests.cli.run_cli import Ran


def make_run(folder: Path, when: float, **changes: Any) -> None:
    folder.mkdir(parents=True)
    info = {
        "format": 1, "base": {"name": "smollm2-135m"}, "steps": 10, "finished": True, "parents": [],
        "metrics": {"loss": 2.0, "eval_loss": 2.25, "base_eval_loss": None},
    } | changes  # fmt: skip
    (folder / "pocketft.json").write_text(json.dumps(info))
    os.utime(folder / "pocketft.json", (when, when))


def test_recipes_lists_and_shows(pocketft: Callable[..., Ran]) -> None:
    listed = json.loads(pocketft("recipes", "--json").out)
    assert {recipe["name"] for recipe in listed} >= {"default", "tiny-memory", "chat", "quality"}
    assert "tiny-memory" in pocketft("recipes").out
    shown = yaml.safe_load(pocketft("recipes", "show", "chat", "--set", "lora.r=3").out)
    assert shown["lora"]["r"] == 3 and shown["data"]["packing"] is False
    assert json.loads(pocketft("recipes", "show", "chat", "--json").out) == load_recipe("chat").model_dump()


def test_a_shown_recipe_is_a_start_for_an_own_one(pocketft: Callable[..., Ran]) -> None:
    Path("mine.yaml").write_text(pocketft("recipes", "show", "quality").out)
    assert load_recipe("mine.yaml") == load_recipe("quality")


def test_runs_are_listed_oldest_first(pocketft: Callable[..., Ran]) -> None:
    make_run(Path("runs/b"), 1000)
    make_run(Path("runs/a"), 2000, finished=False, metrics={})
    (Path("runs/a") / "checkpoints" / "checkpoint-5").mkdir(parents=True)
    make_run(Path("runs/m"), 3000, parents=[{"sha256": "x"}])
    Path("runs/other").mkdir()
    listed = json.loads(pocketft("runs", "--json").out)
    assert [(run["run"], run["state"]) for run in listed] == [
        ("runs/b", "finished"), ("runs/a", "can be resumed"), ("runs/m", "merged"),
    ]  # fmt: skip
    lines = pocketft("runs").out.splitlines()
    assert len(lines) == 4 and "2.2500" in lines[1]


def test_a_damaged_run_is_named_and_the_others_are_listed(pocketft: Callable[..., Ran]) -> None:
    make_run(Path("elsewhere/good"), 1000)
    for name, text in (("torn", '{"base": '), ("list", "[]")):
        (Path("elsewhere") / name).mkdir()
        (Path("elsewhere") / name / "pocketft.json").write_text(text)
    ran = pocketft("runs", "elsewhere", "--json")
    assert ran.code == 0
    assert [run["run"] for run in json.loads(ran.out)] == ["elsewhere/good"]
    assert "torn" in ran.err and "list" in ran.err


def test_no_runs_yet_is_no_failure(pocketft: Callable[..., Ran]) -> None:
    ran = pocketft("runs")
    assert (ran.code, ran.out) == (0, "") and "pocketft train" in ran.err
    assert json.loads(pocketft("runs", "--json").out) == []
    assert pocketft("runs", "nowhere").code == 2
