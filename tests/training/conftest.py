"""A tiny base model and a few texts, prepared once for all tests of the room that need the real engine."""

from __future__ import annotations

import os
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
        _write(text, "The lamp at the harbour was lit before the rain came over the bay.", 40)
        _write(unseen, "The rain came over the harbour before the lamp was lit at the bay.", 4)
        yield World(base, text, unseen)


def _write(folder: Path, sentence: str, files: int) -> None:
    folder.mkdir()
    words = sentence.split()
    for number in range(files):
        turned = words[number % len(words) :] + words[: number % len(words)]
        (folder / f"{number:02}.txt").write_text(" ".join(turned) + f" It was day {number}.\n")


@pytest.fixture(autouse=True)
def one_thread() -> None:
    """Tests run side by side; more threads than cores would only slow them."""
    os.environ.setdefault("OMP_NUM_THREADS", "1")
