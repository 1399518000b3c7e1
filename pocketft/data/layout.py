"""The cache on disk: which files a prepared data set consists of, their record types, and the keys they are found by.

    cache/tokens-<key>/   tokens.i32  marks.u8  documents.bin  summary.json     depends on the files and the tokenizer
    cache/rows-<key>/     {train,val}.pieces  {train,val}.rows  summary.json     depends on the settings as well

A mark is one byte a token: bit 0 says that the token carries loss, the bits above how good a border lies before it.
A folder appears under its name only when it is whole.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import time
from dataclasses import asdict, dataclass
from pathlib import Path
from types import TracebackType
from typing import Any

import numpy as np
from numpy.typing import NDArray

FORMAT = 3  # of the files, and of how a text is read: what an earlier version prepared is then prepared again

TOKEN = np.dtype("<i4")
MARK = np.dtype("u1")
LOSS_BIT = 1
LEVEL_SHIFT = 1
# A document of the token file. `key` is a hash of how it begins; `framed`: the tokenizer's prefix goes before it.
DOCUMENT = np.dtype([("start", "<i8"), ("count", "<i8"), ("loss", "<i8"), ("key", "<u8"), ("framed", "u1")])
PIECE = np.dtype([("start", "<i8"), ("count", "<i4"), ("framed", "<i4")])
# A row: `count` pieces from piece `first` on; `tokens` includes prefixes, `loss` is what is learned in it.
ROW = np.dtype([("first", "<i8"), ("count", "<i4"), ("tokens", "<i4"), ("loss", "<i4")])

KEPT_FOLDERS = 8
KEPT_AGE_S = 24 * 3600


@dataclass(frozen=True)
class DataSettings:
    """`seed` chooses which documents are held out; the others: see the recipe's data section."""

    max_seq_length: int = 512
    val_split: float = 0.05
    packing: bool = True
    seed: int = 0
    me: str | None = None
    column: str | None = None
    deduplicate: bool = True
    drop_boilerplate: bool = True
    min_chars: int = 16
    secrets: str = "redact"  # "keep", "refuse"


# The settings on which the tokens depend, and not only the rows made of them.
READING_SETTINGS = ("me", "column", "deduplicate", "drop_boilerplate", "min_chars", "secrets")


def tokens_key(content: str, tokenizer: str, settings: DataSettings) -> str:
    reading = json.dumps([getattr(settings, name) for name in READING_SETTINGS])
    return hashlib.blake2b(f"{FORMAT} {content} {tokenizer} {reading}".encode(), digest_size=16).hexdigest()


def rows_key(tokens: str, settings: DataSettings) -> str:
    return hashlib.blake2b(f"{tokens} {json.dumps(asdict(settings))}".encode(), digest_size=16).hexdigest()


def tokens_folder(cache_dir: Path, key: str) -> Path:
    return cache_dir / f"tokens-{key}"


def rows_folder(cache_dir: Path, key: str) -> Path:
    return cache_dir / f"rows-{key}"


def read_summary(folder: Path) -> dict[str, Any] | None:
    """None where there is no such folder; reading one marks it as in use."""
    try:
        summary = json.loads((folder / "summary.json").read_text(encoding="utf-8"))
        os.utime(folder)
    except (OSError, ValueError):
        return None
    return summary if isinstance(summary, dict) else None


def prune(cache_dir: Path) -> None:
    """Remove sets that have not been used for a day, beyond the most recent few, and what killed processes left."""
    now = time.time()
    for pattern, keep in (("tokens-*", KEPT_FOLDERS), ("rows-*", KEPT_FOLDERS), (".*.tmp", 0), (".*.old", 0)):
        aged = []
        for folder in cache_dir.glob(pattern):
            try:
                aged.append((folder.stat().st_mtime, folder))
            except OSError:  # gone already: another process prunes too
                continue
        for modified, folder in sorted(aged, reverse=True)[keep:]:
            if now - modified > KEPT_AGE_S:
                shutil.rmtree(folder, ignore_errors=True)


class FlatFile:
    """Records of one type in a file, read in ranges.

    Reads rather than maps: a mapped file's pages count towards the process's resident memory as they are touched, so an
    epoch over 1 GB of text would add 1 GB to the peak that the memory cap is about.
    """

    def __init__(self, path: Path, dtype: np.dtype[Any]) -> None:
        self.dtype = dtype
        self._file = path.open("rb", buffering=0)
        self._length = os.fstat(self._file.fileno()).st_size // dtype.itemsize

    def __len__(self) -> int:
        return self._length

    def read(self, start: int, count: int) -> NDArray[Any]:
        wanted = max(0, min(count, self._length - start)) * self.dtype.itemsize
        chunks = []
        offset = start * self.dtype.itemsize
        while wanted > 0:
            chunk = self._read_at(wanted, offset)
            if not chunk:
                raise OSError(f"{self._file.name} became shorter while it was read")
            chunks.append(chunk)
            wanted, offset = wanted - len(chunk), offset + len(chunk)
        return np.frombuffer(b"".join(chunks), dtype=self.dtype)

    def _read_at(self, count: int, offset: int) -> bytes:
        if hasattr(os, "pread"):
            return os.pread(self._file.fileno(), count, offset)
        self._file.seek(offset)
        return self._file.read(count) or b""

    def close(self) -> None:
        self._file.close()

    def __enter__(self) -> FlatFile:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self.close()
