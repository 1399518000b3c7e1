"""What one forward pass is fed: token ids, labels and positions.

Knows nothing of where tokens come from. Rows may hold several documents: `position_ids` restart at 0 where one
begins, and that alone tells the attention where a document ends. Padding sits on the right as a document of its own,
without loss.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

IGNORE = -100


@dataclass(frozen=True)
class MicroBatch:
    """All three are int64 (B, S). Labels follow the Hugging Face convention: not shifted, IGNORE where no loss is
    wanted.
    """

    input_ids: Tensor
    labels: Tensor
    position_ids: Tensor

    def shifted_targets(self) -> Tensor:
        """(B, S): what position t has to predict, that is the label of t + 1; IGNORE at the last position."""
        return torch.nn.functional.pad(self.labels[:, 1:], (0, 1), value=IGNORE)

    @property
    def loss_tokens(self) -> int:
        return int((self.labels[:, 1:] != IGNORE).sum())

    @property
    def tokens(self) -> int:
        return self.input_ids.numel()
