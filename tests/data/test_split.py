from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pocketft.data.borders import NONE, PARAGRAPH, WORD
from pocketft.data.layout import DOCUMENT, LEVEL_SHIFT, FlatFile
from pocketft.data.split import HeldOut, hold_out


def held_out(
    folder: Path,
    sizes: list[int],
    fraction: float,
    seed: int = 0,
    keys: list[int] | None = None,
    levels: list[int] | None = None,
) -> HeldOut:
    records = np.zeros(len(sizes), dtype=DOCUMENT)
    records["count"] = records["loss"] = sizes
    records["start"] = np.cumsum([0, *sizes[:-1]])
    records["key"] = keys if keys is not None else np.arange(len(sizes)) * 7919
    records.tofile(folder / "documents.bin")
    marks = np.array([level << LEVEL_SHIFT for level in levels or [WORD] * sum(sizes)], dtype=np.uint8)
    with FlatFile(folder / "documents.bin", DOCUMENT) as documents:
        return hold_out(documents, fraction, seed, lambda start, count: marks[start : start + count])


def test_about_the_fraction_is_held_out_by_whole_documents(tmp_path: Path) -> None:
    chosen = held_out(tmp_path, [20] * 400, 0.05)
    assert chosen.kind == "documents" and len(chosen.documents) == 20


def test_the_choice_is_the_same_every_time_and_another_with_another_seed(tmp_path: Path) -> None:
    first, again, other = (held_out(tmp_path, [20] * 400, 0.05, seed).documents.tolist() for seed in (0, 0, 1))
    assert first == again != other


def test_the_choice_follows_the_documents_and_not_their_order(tmp_path: Path) -> None:
    keys = [index * 7919 for index in range(400)]
    first = {keys[index] for index in held_out(tmp_path, [20] * 400, 0.05, keys=keys).documents}
    backwards = keys[::-1]
    assert {backwards[index] for index in held_out(tmp_path, [20] * 400, 0.05, keys=backwards).documents} == first


def test_copies_of_a_document_stay_on_one_side(tmp_path: Path) -> None:
    keys = [index // 2 for index in range(400)]
    chosen = {keys[index] for index in held_out(tmp_path, [20] * 400, 0.05, keys=keys).documents}
    rest = {
        key for index, key in enumerate(keys) if index not in held_out(tmp_path, [20] * 400, 0.05, keys=keys).documents
    }
    assert chosen and not chosen & rest


def test_nothing_is_held_out_when_nothing_is_asked_for_or_there_is_next_to_nothing(tmp_path: Path) -> None:
    assert held_out(tmp_path, [200] * 20, 0).kind == "none"
    assert held_out(tmp_path, [20], 0.05).kind == "none"


@pytest.mark.parametrize("sizes", [[1000], [1000, 900], [30, 1000, 30]])
def test_of_few_documents_the_tail_of_the_longest_is_held_out_at_a_paragraph(tmp_path: Path, sizes: list[int]) -> None:
    levels = [WORD] * sum(sizes)
    longest = sizes.index(1000)
    start = sum(sizes[:longest])
    paragraph = start + 1000 - int(0.05 * sum(sizes)) - 9
    levels[paragraph] = PARAGRAPH
    chosen = held_out(tmp_path, sizes, 0.05, levels=levels)
    if chosen.kind == "tail":
        assert (chosen.tail_of, chosen.tail_at) == (longest, paragraph)
    else:  # a small document may do instead
        assert sizes == [30, 1000, 30] and chosen.documents.tolist() in ([0], [2], [0, 2])


@given(st.lists(st.integers(1, 300), min_size=1, max_size=30), st.floats(0.01, 0.5), st.integers(0, 3))
def test_training_always_keeps_at_least_half(
    tmp_path_factory: pytest.TempPathFactory, sizes: list[int], fraction: float, seed: int
) -> None:
    chosen = held_out(tmp_path_factory.mktemp("split"), sizes, fraction, seed, levels=[NONE] * sum(sizes))
    held = sum(sizes[index] for index in chosen.documents)
    if chosen.kind == "tail":
        end = sum(sizes[: chosen.tail_of + 1])
        held = end - chosen.tail_at
        assert 0 < held < sizes[chosen.tail_of]
    assert held <= max(1.5 * fraction, 0.125) * sum(sizes) + 32
    assert held < sum(sizes)
