from __future__ import annotations

from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pocketft.data.borders import LINE, NONE, PARAGRAPH, SENTENCE, WORD, char_levels, part_end, text_parts, token_levels
from pocketft.data.tokenizer import load_text_tokenizer

TEXTS = st.text(st.sampled_from("ab é。.!?\n\t \u2028漢字ひカא🙂'\")"), max_size=120)


def level_before(text: str, mark: str) -> int:
    return int(char_levels(text)[0][text.index(mark)])


@pytest.mark.parametrize(
    ("text", "mark", "level"),
    [
        ("one two", "two", WORD),
        ("one two", "wo", NONE),
        ("One. Two", "Two", SENTENCE),
        ('He said "no." Two', "Two", SENTENCE),
        ("one\ntwo", "two", LINE),
        ("One.\nTwo", "Two", SENTENCE),
        ("one\n\ntwo", "two", PARAGRAPH),
        ("one\n \t\ntwo", "two", PARAGRAPH),
        ("what؟ نعم", "نعم", SENTENCE),
        ("雨。海", "海", SENTENCE),
        ("雨海", "海", WORD),
        ("雨、海", "、", NONE),
    ],
)
def test_a_border_is_as_good_as_what_lies_before_it(text: str, mark: str, level: int) -> None:
    assert level_before(text, mark) == level


@given(TEXTS, st.integers(2, 40))
def test_parts_lose_nothing_but_outer_and_overlong_white_space(text: str, limit: int) -> None:
    parts = list(text_parts([text], limit))
    assert "".join("".join(part.split()) for part, _ in parts) == "".join(text.split())
    assert [last for _, last in parts] == [False] * (len(parts) - 1) + [True] * bool(parts)
    assert all(len(part) <= limit for part, _ in parts)


@given(TEXTS, st.lists(st.integers(0, 120), max_size=5), st.integers(2, 40))
def test_parts_depend_on_the_text_and_not_on_how_it_arrives(text: str, cuts: list[int], limit: int) -> None:
    places = [0, *sorted(cuts), len(text)]
    pieces = [text[a:b] for a, b in pairwise(places)]
    assert list(text_parts(pieces, limit)) == list(text_parts([text], limit))


@given(st.lists(st.text(st.sampled_from("abc"), min_size=1, max_size=8), min_size=1, max_size=40))
def test_a_part_never_ends_inside_a_word_that_is_shorter_than_half_a_part(words: list[str]) -> None:
    parts = [part for part, _ in text_parts([" ".join(words)], 20)]
    assert [word for part in parts for word in part.split()] == words


def test_a_part_prefers_the_end_of_a_paragraph() -> None:
    text = "one two three\n\nfour five. six seven eight nine"
    assert text[: part_end(text, 24)] == "one two three"


def test_a_long_text_without_any_border_is_still_cut() -> None:
    assert [len(part) for part, _ in text_parts(["x" * 100], 32)] == [32, 32, 32, 4]


@given(st.text(max_size=60))
def test_a_token_border_never_lies_inside_a_word(text: str) -> None:
    tokenizer = load_text_tokenizer(_tokenizer_dir)
    encoded = tokenizer.encode([text], control=False)[0]
    levels = token_levels(text, encoded.starts, encoded.ends)
    for index in np.flatnonzero(levels[1:] > NONE) + 1:
        before, after = text[: encoded.starts[index]], text[encoded.starts[index] :]
        spaced = before[-1:].isspace() or after[:1].isspace()
        assert spaced or not (before[-1:].isascii() and after[:1].isascii())


@pytest.fixture(autouse=True)
def _folder(plain_dir: Path) -> None:
    global _tokenizer_dir
    _tokenizer_dir = plain_dir


_tokenizer_dir = Path()
