from __future__ import annotations

import math

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from pocketft.data.secrets.values import CONTEXT_CHARS, find_values
from tests.data.secrets.planted import Maker

MAKE = Maker(3)


@pytest.mark.parametrize(
    ("word", "what", "bits"),
    [
        ("281265017", "number of 9 digits", 9 * math.log2(10)),
        ("281-265-017", "number of 9 digits", 9 * math.log2(10)),
        ("281 265 017", "number of 9 digits", 9 * math.log2(10)),
        ("4f1c-99ab-03de", "key of 14 characters", None),
        ("ghp_" + MAKE.chars(36), "key of 40 characters", None),
        (MAKE.chars(24), "key of 24 characters", None),
    ],
)
def test_a_random_value_is_found_with_what_stands_before_it(word: str, what: str, bits: float | None) -> None:
    text = "We came late to the harbour. " * 6 + f"The code is {word}, she said."
    (value,) = find_values([text, f"Again {word}"])
    assert (value.text, value.description, value.repeats) == (word, what, 2)
    assert value.context.endswith("The code is ") and len(value.context) <= CONTEXT_CHARS
    assert not value.context[0].isspace() and f" {value.context}" in text
    if bits is not None:
        assert value.bits == pytest.approx(bits)
    assert word not in value.description


@pytest.mark.parametrize(
    "text",
    [
        "On 2024-05-17 and 17.05.2024, from 1914-1918, at 12:30:45.",
        "It costs 1,234,567.89 or 12000000 in all; 3.14159265 of them.",
        "some_long_identifier_name and another-hyphenated-word, CamelCaseWords",
        "[API_KEY] and [PHONE]",
        "1234 5",
        "1111111111",
    ],
)
def test_dates_amounts_and_names_are_no_values(text: str) -> None:
    assert find_values([text]) == []


@given(st.from_regex(r"[a-z]{2,6}_[A-Za-z0-9]{12,40}|\d{6,20}|[0-9a-f]{32}", fullmatch=True))
def test_alternatives_have_the_shape_of_the_value(word: str) -> None:
    found = find_values([f"It is {word} now."])
    assume(found)
    for value in found:
        others = value.alternatives(20, seed=1)
        assert others == value.alternatives(20, seed=1) and len(set(others)) > 10
        for other in others:
            assert len(other) == len(value.text)
            for one, two in zip(value.text, other, strict=True):
                assert one == two or (one.isdigit(), one.islower(), one.isupper()) == (
                    two.isdigit(), two.islower(), two.isupper(),
                )  # fmt: skip


@given(st.text(), st.text())
def test_any_text_is_searched(before: str, after: str) -> None:
    text = f"{before}\n key_8fK2mQ9xT4bW7zRc \n{after}"
    found = find_values([text])
    assert "key_8fK2mQ9xT4bW7zRc" in [value.text for value in found]
    assert all(value.text in text and value.bits >= 18 for value in found)
