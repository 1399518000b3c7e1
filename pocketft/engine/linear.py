"""Frozen linear layers with low-rank adapters, forward and backward by hand.

Layers that read the same input (q, k, v; gate, up) form a group: one matrix, one product. A group's weight is not a
parameter: whoever owns the memory binds it before use and may take it away afterwards, between forward and backward
too.

    y  = x WT + b + s (d(x) AT) BT           Hu et al. 2021, d = dropout
    dx = dy W + d'(s (dy B) A)    dA = s (dy B)T d(x)    dB = s dyT (d(x) AT)

The base gets no gradient, so x is all that is saved (h = d(x) AT is tiny and kept too). Masters A and B are fp32;
products run in the dtype of x. Knows nothing of blocks, files or PEFT.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn


@dataclass(frozen=True)
class Lora:
    """One adapter on one layer: A (r, in), B (out, r), fp32; `scaling` is alpha / r or alpha / sqrt(r)."""

    a: nn.Parameter
    b: nn.Parameter
    scaling: float
    dropout: float


class FrozenLinear(nn.Linear):
    """Stands for an `nn.Linear` whose weight lives elsewhere; asks its group for the product.

    `weight` is one number stretched to the layer's shape: it answers questions about shape, dtype and device for PEFT
    and transformers, and takes no memory.
    """

    def __init__(self, in_features: int, out_features: int, device: torch.device) -> None:
        nn.Module.__init__(self)
        self.in_features, self.out_features = in_features, out_features
        stretched = torch.zeros(1, device=device).expand(out_features, in_features)
        self.weight = nn.Parameter(stretched, requires_grad=False)
        self.register_parameter("bias", None)
        self.group: LinearGroup | None = None
        self.lora: Lora | None = None

    def forward(self, x: Tensor) -> Tensor:
        assert self.group is not None, "bound to no group yet"
        return self.group.product(self, x)


class LinearGroup:
    """Frozen linears that are called one after another on the very same input tensor.

    `weight` (sum of out, in) and `bias` (sum of out) or None are bound from outside. The first member called computes
    for all; the others take what is waiting for them.
    """

    def __init__(self, members: Sequence[FrozenLinear], index: int) -> None:
        self.members = tuple(members)
        self.index = index  # tells dropout streams apart
        self.weight: Tensor | None = None
        self.bias: Tensor | None = None
        self.output_unused = False  # set while a block is recomputed whose end needs no value of this product
        self.dropout_seeds: tuple[int, ...] = ()  # one per row of the batch, so that its grouping changes nothing
        self.adapter_enabled = True
        self._input: Tensor | None = None
        self._waiting: dict[FrozenLinear, Tensor] = {}
        for member in members:
            member.group = self

    @property
    def out_features(self) -> list[int]:
        return [member.out_features for member in self.members]

    def product(self, member: FrozenLinear, x: Tensor) -> Tensor:
        if x is not self._input or member not in self._waiting:
            loras = [m.lora if self.adapter_enabled else None for m in self.members]
            parameters = [p for lora in loras if lora is not None for p in (lora.a, lora.b)]
            outputs = _GroupProduct.apply(x, self, tuple(loras), *parameters)
            self._input, self._waiting = x, dict(zip(self.members, outputs, strict=True))
        output = self._waiting.pop(member)
        if not self._waiting:
            self._input = None
        return output

    def forget(self) -> None:
        """Let go of outputs that nobody came for, because the pass was broken off."""
        self._input = None
        self._waiting.clear()


class _GroupProduct(torch.autograd.Function):
    """x (..., in) -> one (..., out_i) per member. `parameters` repeats A and B of each adapter so that autograd sees
    them.
    """

    @staticmethod
    def forward(
        ctx: Any, x: Tensor, group: LinearGroup, loras: tuple[Lora | None, ...], *parameters: Tensor
    ) -> tuple[Tensor, ...]:
        rows = x.reshape(-1, x.shape[-1])  # (N, in)
        outputs = _base_product(rows, group).split(group.out_features, dim=1)
        hidden = []
        for share in _shares(rows, loras, group, group.dropout_seeds):
            h = share.seen(rows) @ share.a(x.dtype).t()  # (N, R)
            hidden.append(h)
            if group.output_unused:
                continue
            for (position, lora), part in zip(share.adapters, h.split(share.ranks, dim=1), strict=True):
                outputs[position].addmm_(part, lora.b.to(x.dtype).t(), alpha=lora.scaling)
        ctx.group, ctx.loras, ctx.seeds = group, loras, group.dropout_seeds
        ctx.save_for_backward(x, *hidden)
        return tuple(output.view(*x.shape[:-1], -1) for output in outputs)

    @staticmethod
    def backward(ctx: Any, *grad_outputs: Tensor) -> tuple[Tensor | None, ...]:
        x, *hidden = ctx.saved_tensors
        group: LinearGroup = ctx.group
        rows = x.reshape(-1, x.shape[-1])
        grads = [g.reshape(-1, g.shape[-1]) for g in grad_outputs]  # (N, out_i) each
        dx = _base_backward(grads, group) if ctx.needs_input_grad[0] else None
        parameter_grads: list[Tensor] = []
        for share, h in zip(_shares(rows, ctx.loras, group, ctx.seeds), hidden, strict=True):
            dh = [(grads[p] @ lora.b.to(x.dtype)).mul_(lora.scaling) for p, lora in share.adapters]  # (N, r) each
            g = torch.cat(dh, dim=1)
            da = (g.t() @ share.seen(rows)).float().split(share.ranks)  # (r, in) each
            for (position, lora), part, own in zip(share.adapters, h.split(share.ranks, dim=1), da, strict=True):
                db = part.t() @ grads[position]  # (r, out): several times faster than its transpose, long and thin
                parameter_grads += (own, db.t().float().mul_(lora.scaling))
            if dx is not None:
                share.add_back(g, dx)
        return (None if dx is None else dx.view_as(x), None, None, *parameter_grads)


@dataclass(frozen=True)
class _Share:
    """Adapters that see the very same input: their A stand on top of each other, R rows in all, in one product.

    All of a group, unless dropout hides other numbers from each. `mask` (N, in) is None without dropout.
    """

    adapters: tuple[tuple[int, Lora], ...]  # with their positions in the group
    mask: Tensor | None

    @property
    def ranks(self) -> list[int]:
        return [lora.a.shape[0] for _, lora in self.adapters]

    def a(self, dtype: torch.dtype) -> Tensor:
        return torch.cat([lora.a for _, lora in self.adapters]).to(dtype)  # (R, in)

    def seen(self, rows: Tensor) -> Tensor:
        return rows if self.mask is None else rows * self.mask

    def add_back(self, dh: Tensor, dx: Tensor) -> None:
        """dh (N, R): the scaled gradient of what A gives; its way back to the input is added to `dx`."""
        if self.mask is None:
            dx.addmm_(dh, self.a(dx.dtype))
        else:
            dx += (dh @ self.a(dx.dtype)) * self.mask


def _shares(rows: Tensor, loras: Sequence[Lora | None], group: LinearGroup, seeds: tuple[int, ...]) -> Iterator[_Share]:
    adapters = [(position, lora) for position, lora in enumerate(loras) if lora is not None]
    if not any(lora.dropout and seeds for _, lora in adapters):
        if adapters:
            yield _Share(tuple(adapters), None)
        return
    for position, lora in adapters:
        yield _Share(((position, lora),), _dropout_mask(rows, lora, group, position, seeds))


def _base_product(rows: Tensor, group: LinearGroup) -> Tensor:
    if group.output_unused:  # a stand-in without memory: nobody reads the value
        return rows.new_zeros(()).expand(rows.shape[0], sum(group.out_features))
    assert group.weight is not None, "weights are not in memory"
    return nn.functional.linear(rows, group.weight, group.bias)


def _base_backward(grads: list[Tensor], group: LinearGroup) -> Tensor:
    """sum of dy_i W_i, (N, in)."""
    assert group.weight is not None, "weights are not in memory"
    weights = group.weight.split(group.out_features, dim=0)
    dx = grads[0] @ weights[0]
    for dy, weight in zip(grads[1:], weights[1:], strict=True):
        dx.addmm_(dy, weight)
    return dx


def _dropout_mask(rows: Tensor, lora: Lora, group: LinearGroup, position: int, seeds: tuple[int, ...]) -> Tensor | None:
    """(N, in) of 0 and 1 / (1 - p), the same whenever asked for with the same seeds: backward does not store it.

    Numbers are drawn row by row of the batch, a token after the other, so padding on the right changes none.
    """
    if lora.dropout == 0.0 or not seeds:
        return None
    keep = rows.new_empty(len(seeds), rows.shape[0] // len(seeds), rows.shape[1])  # (B, S, in)
    for row, seed in zip(keep, seeds, strict=True):
        own_seed = (seed * 1_000_003 + group.index * 64 + position) % (1 << 63)
        generator = torch.Generator().manual_seed(own_seed)
        row.copy_(torch.rand(row.shape, generator=generator) >= lora.dropout)
    return keep.view(rows.shape).div_(1.0 - lora.dropout)
