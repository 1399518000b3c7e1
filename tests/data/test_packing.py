from __future__ import annotations

from itertools import pairwise

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from pocketft.data.borders import NONE, PARAGRAPH, SENTENCE, WORD
from pocketft.data.packing import Piece, cut, pack

LEVELS = st.lists(st.integers(NONE, PARAGRAPH), max_size=200)


def cut_levels(levels: list[int], room: int, start: int = 0) -> list[tuple[int, int]]:
    array = np.array([NONE] * start + levels, dtype=np.uint8)
    return list(cut(start, len(array), room, lambda at, count: array[at : at + count]))


@given(LEVELS, st.integers(1, 40), st.integers(0, 5))
def test_cutting_covers_every_token_once_and_in_order(levels: list[int], room: int, start: int) -> None:
    runs = cut_levels(levels, room, start)
    assert [token for at, count in runs for token in range(at, at + count)] == list(range(start, start + len(levels)))
    assert all(0 < count <= room for _, count in runs)


@given(LEVELS, st.integers(2, 40))
def test_a_cut_lies_inside_a_word_only_if_the_room_holds_no_border(levels: list[int], room: int) -> None:
    for (start, count), (next_start, _) in pairwise(cut_levels(levels, room)):
        if levels[next_start] == NONE:
            assert count == room
            assert all(level == NONE for level in levels[start + 1 : start + room + 1])


def test_a_cut_prefers_a_paragraph_then_a_sentence_then_a_word() -> None:
    levels = [NONE] * 30
    levels[7], levels[9] = SENTENCE, WORD
    assert cut_levels(levels, 10)[0] == (0, 7)
    levels[6] = PARAGRAPH
    assert cut_levels(levels, 10)[0] == (0, 6)
    levels[6] = levels[7] = NONE
    assert cut_levels(levels, 10)[0] == (0, 9)


@given(st.lists(st.integers(1, 32), max_size=200))
def test_packing_puts_every_piece_in_exactly_one_row_that_holds_it(sizes: list[int]) -> None:
    pieces = [Piece(start=index, count=size, size=size, framed=False, loss=1) for index, size in enumerate(sizes)]
    rows = list(pack(pieces, 32))
    assert sorted(piece.start for row in rows for piece in row) == list(range(len(sizes)))
    assert all(0 < sum(piece.size for piece in row) <= 32 for row in rows)
    filled = sorted(sum(piece.size for piece in row) for row in rows)
    assert len(filled) < 2 or filled[0] + filled[1] > 32  # no two rows could have been one


def test_packing_fits_closely() -> None:
    sizes = [20, 12, 31, 1, 16, 16]
    pieces = [Piece(start=index, count=size, size=size, framed=False, loss=1) for index, size in enumerate(sizes)]
    assert [sum(piece.size for piece in row) for row in pack(pieces, 32)] == [32, 32, 32]
