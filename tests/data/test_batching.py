"""Rows side by side, and to which lengths they are padded."""

from __future__ import annotations

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from pocketft.data.batching import Row, collate, padded_length, padded_lengths


def test_collate_pads_on_the_right_with_a_document_of_its_own() -> None:
    rows = [
        Row(np.array([5, 6, 7]), np.array([-100, 6, 7]), np.array([0, 1, 2])),
        Row(np.array([8]), np.array([-100]), np.array([0])),
    ]
    batch = collate(rows, pad_id=1)
    assert batch.input_ids.tolist() == [[5, 6, 7, 1, 1, 1, 1, 1], [8, 1, 1, 1, 1, 1, 1, 1]]
    assert batch.labels.tolist() == [[-100, 6, 7] + [-100] * 5, [-100] * 8]
    assert batch.position_ids.tolist() == [[0, 1, 2, 0, 1, 2, 3, 4], [0, 0, 1, 2, 3, 4, 5, 6]]


@given(longest=st.integers(1, 100_000))
def test_padding_makes_few_different_lengths_and_none_much_longer(longest: int) -> None:
    padded = padded_length(longest)
    assert longest <= padded < longest + max(8, longest / 8)
    assert padded_length(padded) == padded
    octave = range(longest, 2 * longest, max(1, longest // 100))
    assert len({padded_length(length) for length in octave}) <= 16


def test_rows_that_are_nearly_full_all_take_one_length() -> None:
    assert set(padded_lengths(np.array([512, 500, 481, 490, 127] + [505] * 40, np.int32)).tolist()) == {512}


def test_rows_of_many_lengths_are_padded_each_to_its_own() -> None:
    assert padded_lengths(np.array([512, 100, 30, 290], np.int32)).tolist() == [512, 104, 32, 320]
    assert padded_lengths(np.array([], np.int32)).tolist() == []
