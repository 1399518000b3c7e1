"""What has been seen: 64-bit keys with a number each, in flat arrays that grow up to a limit and then forget.

A Python dict takes 100 bytes a key; this takes 12 to 24, and is of one size however much text passes by.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

_WAYS = 8  # places in a bucket
_FIRST_BUCKETS = 1 << 8


class Seen:
    """Buckets of eight places. A full table of `max_keys` lets a new key replace one of its bucket, in turn."""

    def __init__(self, max_keys: int) -> None:
        self._max_buckets = max(_FIRST_BUCKETS, 1 << (max_keys // _WAYS - 1).bit_length())
        self._keys = np.zeros((_FIRST_BUCKETS, _WAYS), dtype=np.uint64)
        self._numbers = np.zeros((_FIRST_BUCKETS, _WAYS), dtype=np.int32)
        self._added = 0

    def find(self, keys: NDArray[np.uint64]) -> NDArray[np.int32]:
        """The numbers that any of `keys` was added with."""
        rows = self._rows(keys)
        return self._numbers[rows][self._keys[rows] == keys[:, None]]

    def add(self, keys: NDArray[np.uint64], number: int) -> None:
        """`keys` are not 0."""
        if self._added + len(keys) > self._keys.size // 2 and len(self._keys) < self._max_buckets:
            self._grow()
        rows = self._rows(keys)
        held = self._keys[rows]
        empty = held == 0
        ways = np.where(empty.any(axis=1), empty.argmax(axis=1), (self._added + np.arange(len(keys))) % _WAYS)
        self._keys[rows, ways] = keys
        self._numbers[rows, ways] = number
        self._added += len(keys)

    def _rows(self, keys: NDArray[np.uint64]) -> NDArray[np.int64]:
        return (keys & np.uint64(len(self._keys) - 1)).astype(np.int64)

    def _grow(self) -> None:
        """Every bucket is divided in two by the next bit of its keys."""
        upper = (self._keys & np.uint64(len(self._keys))) != 0
        nothing = np.zeros((), dtype=np.uint64)
        self._numbers = np.concatenate([self._numbers, self._numbers])
        self._keys = np.concatenate([np.where(upper, nothing, self._keys), np.where(upper, self._keys, nothing)])
