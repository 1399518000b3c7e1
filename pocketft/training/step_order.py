"""Which rows every optimizer step trains on, in a fixed order.

Knows numbers of rows and their lengths, not their content. The order follows from the seed and the step alone, so a
resumed run needs no place in the data besides its step.
"""

from __future__ import annotations

import zlib
from collections.abc import Sequence

import numpy as np

from pocketft.data.dataset import epoch_order, longest_first


class StepOrder:
    """`rows_per_step` rows an optimizer step; the last step of an epoch takes what is left.

    The first step of all takes the longest rows: if memory does not suffice it shows at once.
    """

    def __init__(self, lengths: np.ndarray, rows_per_step: int, epochs: int, seed: int) -> None:
        self.lengths = lengths  # (rows,) tokens in each row
        self.rows_per_step = rows_per_step
        self.seed = seed
        self.steps_per_epoch = -(-len(lengths) // rows_per_step)
        self.steps = self.steps_per_epoch * epochs
        self._epoch = -1
        self._order = np.empty(0, dtype=np.int32)  # (rows,) of the epoch in hand

    def rows(self, step: int) -> list[int]:
        """The rows of optimizer step `step` (from 0), longest first.

        Sorted so that rows of like length share a micro-batch and little is padded; the mean over all loss tokens of
        the step does not depend on it.
        """
        epoch, index = divmod(step, self.steps_per_epoch)
        if epoch != self._epoch:
            self._epoch, self._order = epoch, self._epoch_order(epoch)
        rows = self._order[index * self.rows_per_step : (index + 1) * self.rows_per_step].tolist()
        return sorted(rows, key=lambda row: -self.lengths[row])

    def tokens(self, rows: Sequence[int]) -> int:
        return int(self.lengths[list(rows)].sum())

    def epochs_done(self, steps: int) -> float:
        return steps / self.steps_per_epoch

    def _epoch_order(self, epoch: int) -> np.ndarray:
        order = epoch_order(len(self.lengths), epoch, self.seed)
        if epoch == 0:
            order = longest_first(order, self.lengths, self.rows_per_step)
        return np.asarray(order, dtype=np.int32)


def micro_batch_rows(rows: Sequence[int], micro_batch: int) -> list[Sequence[int]]:
    """The rows of one step in groups that are computed together."""
    return [rows[start : start + micro_batch] for start in range(0, len(rows), micro_batch)]


def step_seed(seed: int, step: int) -> int:
    """What dropout draws from in one step: its own stream for every seed and step. Never 0, which means no dropout."""
    return zlib.crc32(f"{seed}/{step}".encode()) or 1
