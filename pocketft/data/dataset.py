"""Prepared data as the training process sees it: rows to train on, rows held out, and an account of the reading.

Holds the row tables and reads tokens from disk row by row; never loads a tokenizer. Preparation, where the cache has
nothing yet, happens in another process.
"""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from pocketft.child import Report, Task, run_in_child
from pocketft.data.batching import IGNORE, Row, collate, padded_lengths
from pocketft.data.documents import ReadReport
from pocketft.data.layout import (
    LOSS_BIT,
    MARK,
    PIECE,
    ROW,
    TOKEN,
    DataSettings,
    FlatFile,
    read_summary,
    rows_folder,
    rows_key,
    tokens_folder,
    tokens_key,
)
from pocketft.data.sources import check_paths, content_fingerprint, find_files
from pocketft.data.tokenizer_files import tokenizer_fingerprint
from pocketft.errors import DataError, UsageError

if TYPE_CHECKING:
    from pocketft.engine.batch import MicroBatch

_READING = Task(
    "pocketft.data.prepare", "reading the text", DataError, "please report this with the kind of file it was"
)
_OF_READING = (
    "characters",
    "damaged",
    "documents",
    "first_s",
    "languages",
    "last_s",
    "people",
    "voice",
    "voice_guessed",
)


class RowSet:
    """The rows of one side. `row_lengths` and `row_loss_tokens` are known without reading a token.

    `beside`: rows that are computed in the same run; where those all take one length, these take it too.
    """

    def __init__(
        self, tokens: Path, rows: Path, side: str, prefix: Sequence[int], beside: RowSet | None = None
    ) -> None:
        self._beside = beside
        self._tokens = FlatFile(tokens / "tokens.i32", TOKEN)
        self._marks = FlatFile(tokens / "marks.u8", MARK)
        self._pieces = FlatFile(rows / f"{side}.pieces", PIECE)
        self._prefix = np.array(prefix, dtype=np.int64)
        with FlatFile(rows / f"{side}.rows", ROW) as table:
            self._table = table.read(0, len(table))

    def __len__(self) -> int:
        return len(self._table)

    @property
    def row_lengths(self) -> NDArray[np.int32]:
        return self._table["tokens"]

    @property
    def row_loss_tokens(self) -> NDArray[np.int32]:
        return self._table["loss"]

    @property
    def tokens(self) -> int:
        return int(self.row_lengths.sum(dtype=np.int64))

    @property
    def loss_tokens(self) -> int:
        return int(self.row_loss_tokens.sum(dtype=np.int64))

    @cached_property
    def padded_lengths(self) -> NDArray[np.int64]:
        """The length to which each row is padded."""
        own = padded_lengths(self.row_lengths)
        there = np.unique(self._beside.padded_lengths) if self._beside is not None else own[:0]
        return np.maximum(own, there[0]) if len(there) == 1 else own

    def batch(self, indices: Sequence[int], pad_id: int) -> MicroBatch:
        """These rows as one micro-batch."""
        length = int(self.padded_lengths[list(indices)].max())
        return collate([self.row(index) for index in indices], pad_id, length)

    def row(self, index: int) -> Row:
        entry = self._table[index]
        ids: list[NDArray[np.int64]] = []
        labels: list[NDArray[np.int64]] = []
        positions: list[NDArray[np.int64]] = []
        for piece in self._pieces.read(int(entry["first"]), int(entry["count"])):
            start, count = int(piece["start"]), int(piece["count"])
            prefix = self._prefix if piece["framed"] else self._prefix[:0]
            words = self._tokens.read(start, count).astype(np.int64)
            learned = (self._marks.read(start, count) & LOSS_BIT).astype(bool)
            ids.append(np.concatenate([prefix, words]))
            label = np.concatenate([np.full(len(prefix), IGNORE), np.where(learned, words, IGNORE)])
            label[0] = IGNORE
            labels.append(label)
            positions.append(np.arange(len(label)))
        return Row(np.concatenate(ids), np.concatenate(labels), np.concatenate(positions))


@dataclass(frozen=True)
class DataReport:
    """The account of a prepared data set. `held_out` is "documents", "tail" or "none"."""

    documents: int
    chats: int
    tokens: int
    loss_tokens: int
    held_out: str
    held_out_documents: int
    train_rows: int
    val_rows: int
    train_tokens: int
    val_tokens: int
    files: dict[str, int]
    files_skipped: dict[str, int]
    skipped: tuple[tuple[str, str], ...]
    bad_lines: int
    bad: tuple[tuple[str, str], ...]
    reading: dict[str, Any]  # documents and characters by reader, languages, people, the voice, damage, the time range
    cleaning: dict[str, Any]  # counts of what was left out; of secrets by kind, with the first places of each
    notices: tuple[str, ...]

    def to_json(self) -> dict[str, Any]:
        return asdict(self)


@dataclass(frozen=True)
class PreparedData:
    """`key` identifies content, tokenizer and settings: equal keys mean equal rows. `tokens_dir`: the token set."""

    train: RowSet
    val: RowSet
    report: DataReport
    key: str
    tokens_dir: Path


def prepare_dataset(
    paths: Sequence[Path],
    tokenizer_dir: Path,
    settings: DataSettings,
    cache_dir: Path,
    report: Report,
    cap_bytes: int | None = None,
) -> PreparedData:
    """Rows from files and folders, from the cache where it has them; else read by a process inside `cap_bytes`.

    Raises UsageError for a path that does not exist and DataError where there is nothing to learn from. Notices and
    progress go to `report`.
    """
    paths = [Path(path).absolute() for path in paths]
    if not paths:
        raise UsageError("no data given; name a file or a folder with your text")
    check_paths(paths)
    cache_dir, tokenizer_dir = Path(cache_dir).absolute(), Path(tokenizer_dir).absolute()
    content, total_bytes = content_fingerprint(find_files(paths, ReadReport()))
    of_tokens = tokens_key(content, tokenizer_fingerprint(tokenizer_dir), settings)
    of_rows = rows_key(of_tokens, settings)
    prepared = _open(cache_dir, of_tokens, of_rows)
    if prepared is None:
        run_in_child(
            _READING,
            {
                "paths": [str(path) for path in paths],
                "tokenizer_dir": str(tokenizer_dir),
                "cache_dir": str(cache_dir),
                "settings": asdict(settings),
                "tokens_key": of_tokens,
                "rows_key": of_rows,
                "total_bytes": total_bytes,
                "cap_bytes": cap_bytes,
            },
            report,
        )
        prepared = _open(cache_dir, of_tokens, of_rows)
        assert prepared is not None
    for message in prepared.report.notices:
        report({"event": "notice", "message": message, "level": "warning"})
    return prepared


def reopen_dataset(key: str, cache_dir: Path) -> PreparedData | None:
    """What `prepare_dataset` returned under this key, while the cache still has it."""
    about_rows = read_summary(rows_folder(cache_dir, key))
    of_tokens = str((about_rows or {}).get("tokens", "")).rpartition("tokens-")[2]
    return _open(cache_dir, of_tokens, key) if of_tokens else None


def epoch_order(n_rows: int, epoch: int, seed: int) -> list[int]:
    """The order of rows in one epoch: a function of its arguments alone, on every machine."""
    order = list(range(n_rows))
    random.Random(f"{seed} {epoch}").shuffle(order)
    return order


def longest_first(order: Sequence[int], row_lengths: Sequence[int] | NDArray[np.int32], count: int) -> list[int]:
    """`order` with the `count` longest rows moved to its front, so that what needs the most memory runs at once."""
    longest = sorted(order, key=lambda row: (-int(row_lengths[row]), row))[:count]
    moved = set(longest)
    return longest + [row for row in order if row not in moved]


def _open(cache_dir: Path, of_tokens: str, of_rows: str) -> PreparedData | None:
    tokens, rows = tokens_folder(cache_dir, of_tokens), rows_folder(cache_dir, of_rows)
    about_rows, about_tokens = read_summary(rows), read_summary(tokens)
    if about_rows is None or about_tokens is None:
        return None
    reading = about_tokens["reading"]
    account = DataReport(
        **{name: about_tokens[name] for name in ("documents", "chats", "tokens", "loss_tokens")},
        **{name: about_rows[name] for name in ("held_out", "held_out_documents")},
        train_rows=about_rows["train"]["rows"],
        val_rows=about_rows["val"]["rows"],
        train_tokens=about_rows["train"]["tokens"],
        val_tokens=about_rows["val"]["tokens"],
        files=reading["files"],
        files_skipped=reading["files_skipped"],
        skipped=tuple((where, reason) for where, reason in reading["skipped"]),
        bad_lines=reading["bad_lines"],
        bad=tuple((where, reason) for where, reason in reading["bad"]),
        reading={name: reading[name] for name in _OF_READING},
        cleaning=reading["cleaning"],
        notices=(*reading["notices"], *about_rows["notices"]),
    )
    train = RowSet(tokens, rows, "train", about_tokens["prefix"])
    val = RowSet(tokens, rows, "val", about_tokens["prefix"], beside=train)
    return PreparedData(train, val, account, of_rows, tokens)
