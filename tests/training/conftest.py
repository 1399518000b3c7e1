"""A tiny base model and a few texts, prepared once for all tests of the room that need the real engine."""

from __future__ import annotations

import os
import random
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest


@dataclass(frozen=True)
class World:
    """What a person has: a base model in a folder, text to learn from and text to be scored on."""

    base: Path
    text: Path
    unseen: Path


@pytest.fixture(scope="session")
def world(tmp_path_factory: pytest.TempPathFactory) -> Iterator[World]:
    from tests.tiny_models import save_tiny_folder

    root = tmp_path_factory.mktemp("world")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("POCKETFT_HOME", str(root / "cache"))
        patch.setenv("HF_HUB_OFFLINE", "1")
        base = save_tiny_folder(root / "tiny")
        text, unseen = root / "text", root / "unseen"
        _write(text, range(40))
        _write(unseen, range(100, 104))
        yield World(base, text, unseen)


_WORDS = (
    "the lamp at a harbour was lit before rain came over our bay and she wrote to her brother about boats bread winter "
    "letters stones salt rope until nobody in town could tell which door had been left open for him that evening"
)


def _write(folder: Path, numbers: range) -> None:
    """Texts of like words in other orders, so that there is something to learn and none repeats another."""
    folder.mkdir()
    for number in numbers:
        words = random.Random(number).choices(_WORDS.split(), k=30)
        (folder / f"{number:03}.txt").write_text(" ".join(words).capitalize() + f". It was day {number}.\n")


@pytest.fixture(autouse=True)
def one_thread() -> None:
    """Tests run side by side; more threads than cores would only slow them."""
    os.environ.setdefault("OMP_NUM_THREADS", "1")
