"""Cutting documents into pieces that fit a row, and filling rows with pieces. Pure functions on lengths and borders.

Every token of a document lies in exactly one piece, and every piece in exactly one row.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from pocketft.data.borders import LINE, PARAGRAPH, SENTENCE, WORD

WINDOW_PIECES = 32_768  # packed together; more would gain nothing and hold more in memory


@dataclass(frozen=True)
class Piece:
    """A run of `count` tokens of one document; `size` is what it takes in a row, the tokenizer's prefix included."""

    start: int
    count: int
    size: int
    framed: bool
    loss: int


def cut(
    start: int, stop: int, room: int, read_levels: Callable[[int, int], NDArray[np.uint8]]
) -> Iterator[tuple[int, int]]:
    """Cut tokens [start, stop) into runs (start, count) of at most `room`.

    Between paragraphs, sentences or lines where one ends in the second half of the room; otherwise at the last border
    of a word; inside a word only if it is longer than the room.
    """
    while stop - start > room:
        levels = read_levels(start + 1, room)  # levels[i]: the border before token start + 1 + i
        count = _best_cut(levels, room)
        yield start, count
        start += count
    if stop > start:
        yield start, stop - start


def _best_cut(levels: NDArray[np.uint8], room: int) -> int:
    half = room // 2
    for level in (PARAGRAPH, SENTENCE, LINE):
        places = np.flatnonzero(levels[half:] >= level)
        if len(places):
            return half + int(places[-1]) + 1
    places = np.flatnonzero(levels >= WORD)
    return int(places[-1]) + 1 if len(places) else room


def pack(pieces: Iterable[Piece], row_size: int) -> Iterator[list[Piece]]:
    """Fill rows of at most `row_size` best-fit, longest pieces first, within windows of the stream."""
    window: list[Piece] = []
    for piece in pieces:
        window.append(piece)
        if len(window) == WINDOW_PIECES:
            yield from _best_fit(window, row_size)
            window = []
    yield from _best_fit(window, row_size)


def _best_fit(pieces: list[Piece], row_size: int) -> list[list[Piece]]:
    """Each piece goes to the row it fits most closely. Bit n of `open_rows`: there is a row with n places left."""
    rows: list[list[Piece]] = []
    by_room: dict[int, list[list[Piece]]] = {}
    open_rows = 0
    for piece in sorted(pieces, key=lambda piece: (-piece.size, piece.start)):
        fitting = open_rows >> piece.size
        if fitting:
            room = piece.size + (fitting & -fitting).bit_length() - 1
            row = by_room[room].pop()
            if not by_room[room]:
                open_rows &= ~(1 << room)
        else:
            room, row = row_size, []
            rows.append(row)
        row.append(piece)
        room -= piece.size
        if room:
            by_room.setdefault(room, []).append(row)
            open_rows |= 1 << room
    return rows
