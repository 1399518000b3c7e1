from __future__ import annotations

import random

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pocketft.data.cleaning.duplicates import Duplicates
from pocketft.data.cleaning.seen import Seen
from pocketft.data.cleaning.sketch import SHINGLE_CHARS, likeness, sketch

WORDS = [
    f"{first}{last}" for first in ("har", "lan", "mor", "sil", "tel", "ven") for last in ("bour", "tern", "row", "ken")
]


def prose(seed: int, words: int = 200) -> list[str]:
    draw = random.Random(seed)
    return [draw.choice(WORDS) + str(draw.randrange(50)) for _ in range(words)]


def jaccard(one: str, other: str) -> float:
    shingles = [{text[at : at + SHINGLE_CHARS] for at in range(len(text) - SHINGLE_CHARS + 1)} for text in (one, other)]
    return len(shingles[0] & shingles[1]) / len(shingles[0] | shingles[1])


@pytest.mark.parametrize("changed", [0, 2, 10, 40, 150])
def test_sketches_estimate_the_likeness_of_texts(changed: int) -> None:
    errors = []
    for seed in range(30):
        words = prose(seed)
        others = list(words)
        for at in random.Random(seed).sample(range(len(words)), changed):
            others[at] = "otherwise"
        one, other = " ".join(words), " ".join(others)
        errors.append(likeness(sketch(one).places, sketch(other).places[None])[0] - jaccard(one, other))
    assert abs(np.mean(errors)) < 0.03 and np.std(errors) < 0.08


@given(st.text(min_size=SHINGLE_CHARS, max_size=60))
def test_any_text_has_a_sketch_that_is_its_own(text: str) -> None:
    one, again = sketch(text), sketch(text)
    assert (one.places == again.places).all() and (one.bands == again.bands).all() and one.bands.shape == (12,)


def test_the_same_words_are_found_whatever_the_white_space_and_the_case() -> None:
    seen = Duplicates()
    assert seen.judge_text("The lamp was lit.\n\nIt rained.") == "new"
    assert seen.judge_text("the lamp was  LIT. it rained.\n") == "same"
    assert seen.judge_text("The lamp was lit. It rains.") == "new"  # too short to be called alike


def test_nearly_the_same_text_is_found_and_another_one_is_not() -> None:
    seen = Duplicates()
    for seed in range(50):
        words = prose(seed)
        assert seen.judge_text(" ".join(words)) == "new"
        words[seed] = "otherwise"
        assert seen.judge_text(" ".join(words)) == "alike"
        assert seen.judge_text(" ".join(words[:80] + prose(seed + 1000, 120))) == "new"


def test_a_conversation_is_a_duplicate_only_of_itself() -> None:
    seen = Duplicates()
    prompt = " ".join(prose(1))
    assert seen.judge_turns([("user", prompt), ("assistant", "Yes.")]) == "new"
    assert seen.judge_turns([("user", prompt), ("assistant", "No.")]) == "new"
    assert seen.judge_turns([("assistant", prompt), ("user", "Yes.")]) == "new"
    assert seen.judge_turns([("user", prompt), ("assistant", "Yes.")]) == "same"


def test_memory_is_bounded_and_the_latest_are_remembered() -> None:
    seen = Duplicates(max_same=1 << 12, max_alike=1 << 10)
    for seed in range(3000):
        seen.judge_text(" ".join(prose(seed, 40)))
    assert all(seen.judge_text(" ".join(prose(seed, 40))) == "same" for seed in range(2900, 3000))
    assert seen._same._keys.nbytes <= 8 << 12 and seen._sketches.nbytes == 128 << 10


@given(st.lists(st.integers(1, 2**64 - 1), unique=True, max_size=600))
def test_keys_are_found_with_their_numbers_while_the_table_grows(keys: list[int]) -> None:
    table = Seen(1 << 16)
    for number, key in enumerate(keys):
        table.add(np.array([key], dtype=np.uint64), number)
    found = [table.find(np.array([key], dtype=np.uint64)).tolist() for key in keys]
    assert sum(number in numbers for number, numbers in enumerate(found)) >= 0.99 * len(keys)
    assert all(numbers in ([], [number]) for number, numbers in enumerate(found))
