"""From a token set to rows: hold out, cut, pack, write the row tables. Reads the token set in ranges, never whole."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pocketft.data.layout import (
    DOCUMENT,
    LEVEL_SHIFT,
    LOSS_BIT,
    MARK,
    PIECE,
    ROW,
    DataSettings,
    FlatFile,
)
from pocketft.data.packing import Piece, cut, pack
from pocketft.data.split import HeldOut, hold_out
from pocketft.errors import DataError
from pocketft.files import write_json

SIDES = ("train", "val")
_BLOCK = 1 << 14


def write_rows(tokens_folder: Path, summary: dict[str, Any], settings: DataSettings, folder: Path) -> None:
    """Fill `folder` with the row tables of both sides and a summary."""
    prefix = len(summary["prefix"])
    with ExitStack() as stack:
        documents = stack.enter_context(FlatFile(tokens_folder / "documents.bin", DOCUMENT))
        marks = stack.enter_context(FlatFile(tokens_folder / "marks.u8", MARK))
        held_out = hold_out(documents, settings.val_split, settings.seed, marks.read)
        counts = {}
        for side in SIDES:
            pieces = _pieces(documents, marks, held_out, side, settings.max_seq_length, prefix)
            rows = pack(pieces, settings.max_seq_length) if settings.packing else ([piece] for piece in pieces)
            counts[side] = _write_side(folder, side, rows)
    if not counts["train"]["rows"]:
        raise DataError("there are too few words to learn from: add more text, or set data.val_split=0")
    write_json(
        folder / "summary.json",
        {
            "tokens": tokens_folder.name,
            "held_out": held_out.kind,
            "held_out_documents": len(held_out.documents),
            **counts,
            "notices": _notices(held_out, settings, counts["val"]["rows"]),
        },
    )


def _pieces(
    documents: FlatFile, marks: FlatFile, held_out: HeldOut, side: str, row_size: int, prefix: int
) -> Iterator[Piece]:
    """The pieces of one side in document order; one without anything to learn would only cost time and is left out."""

    def read_levels(start: int, count: int) -> NDArray[np.uint8]:
        return np.right_shift(marks.read(start, count), LEVEL_SHIFT, dtype=np.uint8)

    for start, stop, framed in _ranges(documents, held_out, side):
        frame = prefix if framed else 0
        for at, count in cut(start, stop, row_size - frame, read_levels):
            learned = marks.read(at, count) & LOSS_BIT
            loss = int(learned.sum()) - (0 if frame else int(learned[0]))  # nothing predicts the first token of a piece
            if loss:
                yield Piece(at, count, count + frame, bool(framed), loss)


def _ranges(documents: FlatFile, held_out: HeldOut, side: str) -> Iterator[tuple[int, int, int]]:
    for first in range(0, len(documents), _BLOCK):
        block = documents.read(first, _BLOCK)
        held = np.isin(np.arange(first, first + len(block)), held_out.documents)
        for index, (document, is_held) in enumerate(zip(block, held, strict=True), start=first):
            start, framed = int(document["start"]), int(document["framed"])
            stop = start + int(document["count"])
            if index == held_out.tail_of:
                if side == "train":
                    yield start, held_out.tail_at, framed
                else:
                    yield held_out.tail_at, stop, framed
            elif is_held == (side == "val"):
                yield start, stop, framed


def _write_side(folder: Path, side: str, rows: Iterator[list[Piece]]) -> dict[str, int]:
    totals = {"rows": 0, "pieces": 0, "tokens": 0, "loss_tokens": 0}
    with (folder / f"{side}.pieces").open("wb") as pieces_file, (folder / f"{side}.rows").open("wb") as rows_file:
        for row in rows:
            tokens, loss = sum(piece.size for piece in row), sum(piece.loss for piece in row)
            records = [(piece.start, piece.count, piece.framed) for piece in row]
            pieces_file.write(np.array(records, dtype=PIECE).tobytes())
            rows_file.write(np.array([(totals["pieces"], len(row), tokens, loss)], dtype=ROW).tobytes())
            for name, count in (("rows", 1), ("pieces", len(row)), ("tokens", tokens), ("loss_tokens", loss)):
                totals[name] += count
    return totals


def _notices(held_out: HeldOut, settings: DataSettings, val_rows: int) -> list[str]:
    if settings.val_split <= 0:
        return []
    if held_out.kind == "tail":
        return ["too few documents to hold whole ones out: the end of the longest one is held out instead"]
    if not val_rows:
        return ["too little text to hold any out: there will be no held-out loss"]
    return []
