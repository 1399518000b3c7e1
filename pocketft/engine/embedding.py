"""Token embedding and output head over packed rows: only the rows or tiles in use are ever dequantized.

Knows packed tensors and `nn` modules; nothing of models, losses or files.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from pocketft.engine.packed import Rows, dequantize

HEAD_TILE_ROWS = 4096


class PackedEmbedding(nn.Module):
    """Looks up rows, then lets the model's own embedding module do the rest (Gemma scales by sqrt(d))."""

    def __init__(self, original: nn.Embedding, packed: Rows, dtype: torch.dtype) -> None:
        super().__init__()
        self.original, self.packed, self.dtype = original, packed, dtype
        original.padding_idx = None  # it would be compared with the number of rows looked up, not with the vocabulary
        del original.weight

    def forward(self, input_ids: Tensor) -> Tensor:
        """(B, S) -> (B, S, d). One row is dequantized per distinct token."""
        distinct, places = input_ids.unique(return_inverse=True)
        rows = torch.empty(len(distinct), self.packed.shape[1], dtype=self.dtype, device=input_ids.device)
        dequantize(self.packed.take(distinct), rows)
        self.original.weight = nn.Parameter(rows, requires_grad=False)
        try:
            embedded: Tensor = self.original(places)
        finally:
            del self.original.weight
        return embedded


class PackedHead(nn.Module):
    """hidden (..., d) -> logits (..., V), dequantizing a tile of the vocabulary at a time."""

    def __init__(self, packed: Rows) -> None:
        super().__init__()
        self.packed = packed

    def forward(self, hidden: Tensor) -> Tensor:
        vocab, width = self.packed.shape
        logits = hidden.new_empty(*hidden.shape[:-1], vocab)
        scratch = hidden.new_empty(min(HEAD_TILE_ROWS, vocab), width)
        for start in range(0, vocab, HEAD_TILE_ROWS):
            tile = self.packed.rows(start, min(start + HEAD_TILE_ROWS, vocab))
            weight = scratch[: tile.shape[0]]
            dequantize(tile, weight)
            logits[..., start : start + HEAD_TILE_ROWS] = nn.functional.linear(hidden, weight)
        return logits
