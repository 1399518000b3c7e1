"""Rows side by side as one micro-batch, and how far they are padded for that.

Libraries compile kernels for every shape of a product, about 50 MB and a tenth of a second for the shapes of one length
of rows, and keep a limited number: a step over rows of many lengths compiles the same kernels again and again and takes
twice as long. So rows are padded to few different lengths. The packer fills nearly all rows to a little less than their
limit; then one length serves them all.

Knows rows of token ids; nothing of files or models.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

if TYPE_CHECKING:
    from pocketft.engine.batch import MicroBatch

IGNORE = -100
_FULL = 0.9  # rows whose tokens fill the longest to so much all take its length
_SMALLEST_STEP = 8


@dataclass(frozen=True)
class Row:
    """One row, each (S,) int64, as `MicroBatch` wants it but without padding: position_ids restart at every piece."""

    input_ids: NDArray[np.int64]
    labels: NDArray[np.int64]
    position_ids: NDArray[np.int64]


def padded_lengths(lengths: NDArray[np.int32]) -> NDArray[np.int64]:
    """The length to which each row is padded, (rows,): the same for all where rows are nearly full; else each to the
    next of eight lengths from one power of two to the next, at most an eighth more than its own.
    """
    distinct, where = np.unique(lengths, return_inverse=True)
    rounded = np.array([padded_length(int(length)) for length in distinct], dtype=np.int64)[where]
    if len(rounded) and lengths.sum(dtype=np.int64) >= _FULL * len(rounded) * rounded.max():
        rounded[:] = rounded.max()
    return rounded


def padded_length(length: int) -> int:
    """The smallest of the lengths 8, 16, ... 128, 144, ... 256, 288, ... that holds `length` tokens."""
    step = max(_SMALLEST_STEP, (1 << (length - 1).bit_length()) // 16)
    return -(-length // step) * step


def collate(rows: Sequence[Row], pad_id: int, length: int | None = None) -> MicroBatch:
    """Rows as one micro-batch, padded on the right to `length`, or as far as the longest needs. Padding is a document
    of its own without loss.
    """
    import torch

    from pocketft.engine.batch import MicroBatch

    size = length or padded_length(max(len(row.input_ids) for row in rows))
    input_ids = np.full((len(rows), size), pad_id, dtype=np.int64)  # (B, S)
    labels = np.full((len(rows), size), IGNORE, dtype=np.int64)
    position_ids = np.zeros((len(rows), size), dtype=np.int64)
    for index, row in enumerate(rows):
        length = len(row.input_ids)
        input_ids[index, :length] = row.input_ids
        labels[index, :length] = row.labels
        position_ids[index, :length] = row.position_ids
        position_ids[index, length:] = np.arange(size - length)
    return MicroBatch(torch.from_numpy(input_ids), torch.from_numpy(labels), torch.from_numpy(position_ids))
