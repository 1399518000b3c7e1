"""Cross-entropy through a packed head, in tiles, in one pass: neither the logits nor the dequantized head ever exist
whole.

The gradient of the mean loss with respect to a hidden state h with target t is

    dh = sum_v softmax(h WT)_v W_v - W_t

which is an attention of h over the rows of W. So one sweep over vocabulary tiles with a running maximum and a running
sum (the online softmax of Milakov & Gimelshein 2018) gives loss and gradient together; two products a tile, each tile
dequantized once. The target's own term is kept out of the sum and added as (1 - p_t) W_t, with 1 - p_t from the other
terms: no cancellation when p_t is near 1.

`torch.nn.functional.linear_cross_entropy` needs the whole head in floating point (335 MB for a vocabulary of 262144
at width 640). Knows packed tensors; nothing of models.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from pocketft.engine.packed import PackedTensor, Rows, dequantize

_PARTS = 8  # of a tile of tokens: so many sizes of the last one


@dataclass(frozen=True)
class LossTiles:
    """How much of the vocabulary and how many tokens are worked on at a time. Changes memory and speed, not the
    result.
    """

    vocab_rows: int = 4096
    tokens: int = 512


@dataclass
class _Running:
    """Per token, over the vocabulary seen so far, the target left out. fp32, all (N, 1) but `weighted` (N, d)."""

    maximum: Tensor
    total: Tensor
    weighted: Tensor | None
    target_logit: Tensor

    @classmethod
    def start(cls, hidden: Tensor, with_grad: bool) -> _Running:
        column = hidden.new_full((hidden.shape[0], 1), float("-inf"), dtype=torch.float32)
        weighted = torch.zeros_like(hidden, dtype=torch.float32) if with_grad else None
        return cls(column, torch.zeros_like(column), weighted, torch.zeros_like(column))

    def rows(self, start: int, stop: int) -> _Running:
        weighted = None if self.weighted is None else self.weighted[start:stop]
        return _Running(self.maximum[start:stop], self.total[start:stop], weighted, self.target_logit[start:stop])


def head_loss(hidden: Tensor, targets: Tensor, head: Rows, tiles: LossTiles) -> Tensor:
    """Sum over tokens of -log p(target). hidden (N, d), targets (N,) without ignored ones -> scalar fp32."""
    running = _sweep(hidden, targets, head, tiles, with_grad=False)
    return _losses(running).sum()


def head_token_losses(hidden: Tensor, targets: Tensor, head: Rows, tiles: LossTiles) -> tuple[Tensor, Tensor]:
    """Of each token -log p(target), (N,) fp32, and whether the target is what the model would say next, (N,) bool."""
    running = _sweep(hidden, targets, head, tiles, with_grad=False)
    return _losses(running)[:, 0], (running.target_logit > running.maximum)[:, 0]


def head_loss_and_grad(hidden: Tensor, targets: Tensor, head: Rows, tiles: LossTiles) -> tuple[Tensor, Tensor]:
    """The sum of the losses and its gradient with respect to `hidden`, (N, d) fp32."""
    running = _sweep(hidden, targets, head, tiles, with_grad=True)
    losses = _losses(running)
    assert running.weighted is not None
    log_others = running.maximum + running.total.log()
    lse = losses + running.target_logit  # log of the sum over the whole vocabulary
    scale = (running.maximum - lse).exp()
    grad = running.weighted.mul_(scale)
    others = (log_others - lse).exp()  # 1 - p_t
    for start in range(0, hidden.shape[0], tiles.tokens):
        part = slice(start, start + tiles.tokens)
        rows = _dequantized(head.take(targets[part]), hidden.dtype)
        grad[part].sub_(others[part] * rows)
    return losses.sum(), grad


def _losses(running: _Running) -> Tensor:
    """-log p_t = log(exp(l_t) + sum of others) - l_t, as softplus(log others - l_t): exact at both ends. (N, 1)"""
    return torch.nn.functional.softplus(running.maximum + running.total.log() - running.target_logit, threshold=50.0)


class _Scratch:
    """Memory of one tile, used again for each: fresh pages would cost as much as the arithmetic on them."""

    def __init__(self, hidden: Tensor, tiles: LossTiles, vocab: int) -> None:
        rows, tokens = min(tiles.vocab_rows, vocab), min(tiles.tokens, hidden.shape[0])
        self.weight = hidden.new_empty(rows, hidden.shape[1])
        self._logits = hidden.new_empty(tokens * rows)
        self._values = hidden.new_empty(tokens * rows, dtype=torch.float32)

    def logits(self, tokens: int, rows: int) -> Tensor:
        return self._logits[: tokens * rows].view(tokens, rows)

    def values(self, tokens: int, rows: int) -> Tensor:
        return self._values[: tokens * rows].view(tokens, rows)


def _sweep(hidden: Tensor, targets: Tensor, head: Rows, tiles: LossTiles, with_grad: bool) -> _Running:
    own, vocab = hidden.shape[0], head.shape[0]
    hidden, targets = _filled_up(hidden, targets, tiles)
    tokens = hidden.shape[0]
    running = _Running.start(hidden, with_grad)
    scratch = _Scratch(hidden, tiles, vocab)
    for first in range(0, vocab, tiles.vocab_rows):
        packed = head.rows(first, min(first + tiles.vocab_rows, vocab))
        weight = scratch.weight[: packed.shape[0]]
        dequantize(packed, weight)
        for start in range(0, tokens, tiles.tokens):
            stop = min(start + tiles.tokens, tokens)
            _visit(running.rows(start, stop), hidden[start:stop], targets[start:stop] - first, weight, scratch)
    return running.rows(0, own)


def _filled_up(hidden: Tensor, targets: Tensor, tiles: LossTiles) -> tuple[Tensor, Tensor]:
    """With tokens that nobody looks at, up to a whole part of a tile: for each number of tokens the library compiles
    two kernels, a megabyte that stays between the tensors of the heap.
    """
    part = max(1, tiles.tokens // _PARTS)
    missing = -hidden.shape[0] % part
    if not missing:
        return hidden, targets
    return torch.nn.functional.pad(hidden, (0, 0, 0, missing)), torch.nn.functional.pad(targets, (0, missing))


def _visit(running: _Running, hidden: Tensor, local_targets: Tensor, weight: Tensor, scratch: _Scratch) -> None:
    """Fold one tile of the vocabulary into the running sums of some tokens."""
    shape = (hidden.shape[0], weight.shape[0])
    logits = torch.mm(hidden, weight.t(), out=scratch.logits(*shape))  # (n, v)
    here = (local_targets >= 0) & (local_targets < weight.shape[0])
    column = local_targets.clamp(0, weight.shape[0] - 1)[:, None]  # (n, 1)
    own = logits.gather(1, column)
    running.target_logit.copy_(torch.where(here[:, None], own.float(), running.target_logit))
    each = torch.arange(len(logits), device=logits.device)
    logits[each, column[:, 0]] = torch.where(here, float("-inf"), own[:, 0])  # scatter_ would copy the tile, twice
    maximum = torch.maximum(running.maximum, logits.amax(dim=1, keepdim=True).float())
    kept = (running.maximum - maximum).exp()  # how much of the old sums remains
    p = scratch.values(*shape).copy_(logits).sub_(maximum).exp_()  # (n, v); in two steps, as mixed dtypes are slow
    running.total.mul_(kept).add_(p.sum(dim=1, keepdim=True))
    if running.weighted is not None:
        running.weighted.mul_(kept).add_(logits.copy_(p) @ weight)
    running.maximum.copy_(maximum)


def _dequantized(packed: PackedTensor, dtype: torch.dtype) -> Tensor:
    out = torch.empty(packed.shape, dtype=dtype, device=next(iter(packed.parts.values())).device)
    dequantize(packed, out)
    return out
