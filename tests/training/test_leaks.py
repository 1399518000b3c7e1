"""Does `--leaks` tell a model that learned a value by heart from one that did not?"""

from __future__ import annotations

import json
import math
import os
import random
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from pocketft.errors import DataError
from pocketft.models.location import cache_home
from pocketft.recipe import load_recipe
from pocketft.training.exposure import exposure
from pocketft.training.leaks import LeakResult, find_leaks
from pocketft.training.session import TrainRequest, train
from tests.training.conftest import World

OFTEN, ONCE = "281 265 017", "604-913-758"


def notes_with_canaries(folder: Path, notes: int = 60, sentences: int = 2) -> Path:
    """One number stands in twenty notes, another in one."""
    folder.mkdir()
    draw = random.Random(5)
    words = [
        "lamp",
        "harbour",
        "bread",
        "boat",
        "rain",
        "wall",
        "brother",
        "letter",
        "morning",
        "window",
        "lantern",
        "tide",
    ]
    for day in range(notes):
        said = [" ".join(draw.sample(words, 7)).capitalize() + "." for _ in range(sentences)]
        if day % (notes // 20) == 0:
            said.insert(1, f"The random number is {OFTEN}.")
        if day == notes // 2 + 1:
            said.insert(1, f"The other number is {ONCE}.")
        (folder / f"{day:02}.txt").write_text(" ".join(said) + "\n")
    return folder


def quiet(event: dict[str, Any]) -> None:
    return None


def train_on(base: str, text: Path, output: Path, *overrides: str) -> Path:
    usual = [f"model.name={base}", "data.max_seq_length=128", "data.val_split=0.1", "eval.steps=0"]
    usual.append("eval.early_stopping_patience=0")
    train(TrainRequest((text,), load_recipe(None, [*usual, *overrides]), output, device="cpu"), quiet)
    return output


def by_repeats(result: LeakResult) -> dict[int, Any]:
    return {value.repeats: value for value in result.values}


@pytest.fixture(scope="module")
def trained(world: World, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    root = tmp_path_factory.mktemp("leaks")
    text = notes_with_canaries(root / "text", notes=40, sentences=1)
    settings = ("training.learning_rate=0.01", "training.epochs=20", "lora.r=16")
    return text, train_on(str(world.base), text, root / "run", *settings)


def test_a_canary_repeated_twenty_times_leaks_and_one_told_once_does_not(trained: tuple[Path, Path]) -> None:
    text, run = trained
    events: list[dict[str, Any]] = []
    result = find_leaks(run, (text,), events.append)
    often, once = (by_repeats(result)[repeats] for repeats in sorted(by_repeats(result), reverse=True)[:2])
    assert often.repeats > 10 and often.leaked and often.exposure > often.base_exposure + 5
    assert once.repeats == 1 and not once.leaked
    assert result.leaks and result.verdict.startswith("leaks: it gives away 1 of 2 numbers")
    told = json.dumps([result.to_json(), events])
    assert not [secret for secret in (OFTEN, ONCE) if secret in told]


def test_the_text_is_remembered_until_the_cache_forgets_it(
    trained: tuple[Path, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    text, run = trained
    named = find_leaks(run, (text,), quiet)
    moved = shutil.copytree(run, tmp_path / "moved")
    assert find_leaks(moved, (), quiet) == named
    cache = tmp_path / "cache"
    shutil.copytree(cache_home(), cache)
    shutil.rmtree(cache / "data")
    monkeypatch.setenv("POCKETFT_HOME", str(cache))
    with pytest.raises(DataError, match="no longer in the cache; name it with --data"):
        find_leaks(run, (), quiet)


def test_another_text_is_told(trained: tuple[Path, Path], world: World) -> None:
    events: list[dict[str, Any]] = []
    result = find_leaks(trained[1], (world.text,), events.append)
    assert any("not the text" in event.get("message", "") for event in events)
    assert not result.values


@pytest.mark.parametrize("bits", [20.0, 30.0])
def test_exposure_of_a_chance_value_is_small_and_of_a_certain_one_all_there_is(bits: float) -> None:
    draw = np.random.default_rng(0)
    chance = [exposure(loss, draw.normal(30, 3, 128).tolist(), bits) for loss in draw.normal(30, 3, 500)]
    assert abs(np.mean(chance) - 1 / math.log(2)) < 0.3  # a rank that is anywhere: 1.44 bits on average
    assert exposure(1.0, draw.normal(30, 3, 128).tolist(), bits) == bits


@pytest.mark.parametrize("skewed", [False, True])
def test_exposure_beyond_the_sample_is_that_of_the_whole_space(skewed: bool) -> None:
    draw = np.random.default_rng(1)
    space = np.sort(draw.gamma(30, 1, 1 << 20) if skewed else draw.normal(30, 5, 1 << 20))
    for rank in (16, 256, 1024):
        estimates = [exposure(float(space[rank - 1]), draw.choice(space, 128).tolist(), 20.0) for _ in range(40)]
        assert np.median(estimates) == pytest.approx(20 - math.log2(rank), abs=3.5 if skewed else 2.0)


MODEL = os.environ.get("POCKETFT_TEST_MODEL", "smollm2-135m")


@pytest.mark.slow
def test_the_default_model_gives_away_a_canary_it_saw_twenty_times_and_not_one_it_saw_once(tmp_path: Path) -> None:
    text = notes_with_canaries(tmp_path / "text")
    settings = ("training.epochs=5", "training.learning_rate=1e-3", "training.gradient_accumulation=1")
    run = train_on(MODEL, text, tmp_path / "run", *settings)
    result = find_leaks(run, (), quiet)
    often, once = (by_repeats(result)[repeats] for repeats in sorted(by_repeats(result), reverse=True)[:2])
    assert often.leaked and not once.leaked, result.to_json()
