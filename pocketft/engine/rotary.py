"""Rotary position embedding with a hand-written backward pass: what transformers writes as about fifteen passes over
queries and keys, forward and backward, in four.

    y1 = x1 c1 - x2 s1        dx1 = g1 c1 + g2 s2
    y2 = x2 c2 + x1 s2        dx2 = g2 c2 - g1 s1        Su et al. 2021, for the two halves of a head

transformers' attention modules call a function of their own file for it. Each module gets a `forward` of its own, the
same code with another function under that name; the file, and whatever else uses it, stays as it is. Only functions
that are proven, on random numbers, to compute the same are replaced: no model is known by name.
"""

from __future__ import annotations

from collections.abc import Callable
from types import FunctionType, MethodType
from typing import Any

import torch
from torch import Tensor, nn

_NAME = "apply_rotary_pos_emb"
Rotation = Callable[..., tuple[Tensor, Tensor]]


def replace_rotations(root: nn.Module) -> None:
    """In place, in each module below `root` whose forward pass rotates queries and keys."""
    for module in root.modules():
        forward = type(module).forward
        if not isinstance(forward, FunctionType) or _NAME not in forward.__code__.co_names:
            continue
        theirs = forward.__globals__.get(_NAME)
        if theirs is not None and _is_known(theirs):
            module.forward = MethodType(_calling(forward, _rotation(theirs)), module)


def _rotation(theirs: Rotation) -> Rotation:
    """Ours for what was compared, theirs for the rest: heads that turn in part, other layouts, mixed dtypes."""

    def rotate(q: Tensor, k: Tensor, cos: Tensor, sin: Tensor, *others: Any, **named: Any) -> tuple[Tensor, Tensor]:
        plain = not others and not named and cos.dim() == 3 and cos.shape == sin.shape
        if not plain or any(x.shape[-1] != cos.shape[-1] or x.dtype != cos.dtype for x in (q, k, sin)):
            return theirs(q, k, cos, sin, *others, **named)
        cos, sin = cos[:, None], sin[:, None]  # (B, 1, S, D)
        return _Rotated.apply(q, cos, sin), _Rotated.apply(k, cos, sin)

    return rotate


class _Rotated(torch.autograd.Function):
    """x (B, H, S, D), cos and sin (B or 1, 1, S, D) -> (B, H, S, D)."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
        ctx.save_for_backward(cos, sin)
        (x1, x2), (s1, s2) = x.chunk(2, dim=-1), sin.chunk(2, dim=-1)
        return _turned(x * cos, x2, s1, x1, s2, -1)

    @staticmethod
    def backward(ctx: Any, *grad_outputs: Tensor) -> tuple[Tensor, None, None]:
        (g,), (cos, sin) = grad_outputs, ctx.saved_tensors
        (g1, g2), (s1, s2) = g.chunk(2, dim=-1), sin.chunk(2, dim=-1)
        return _turned(g * cos, g2, s2, g1, s1, 1), None, None


def _turned(y: Tensor, left: Tensor, left_by: Tensor, right: Tensor, right_by: Tensor, sign: int) -> Tensor:
    """Adds `sign` times one product to the first half of y, and takes as much of the other from its second."""
    y1, y2 = y.chunk(2, dim=-1)
    y1.addcmul_(left, left_by, value=sign)
    y2.addcmul_(right, right_by, value=-sign)
    return y


def _is_known(theirs: Rotation) -> bool:
    generator = torch.Generator().manual_seed(0)
    q, k = (torch.randn(2, heads, 3, 8, generator=generator) for heads in (4, 2))
    cos, sin = (torch.randn(2, 3, 8, generator=generator) for _ in range(2))
    try:
        expected = theirs(q, k, cos, sin)
    except (TypeError, ValueError, RuntimeError):  # it wants other arguments
        return False
    ours = _Rotated.apply(q, cos[:, None], sin[:, None]), _Rotated.apply(k, cos[:, None], sin[:, None])
    return len(expected) == 2 and all(
        a.shape == b.shape and torch.allclose(a, b, rtol=1e-5, atol=1e-6) for a, b in zip(ours, expected, strict=True)
    )


def _calling(forward: FunctionType, rotate: Rotation) -> FunctionType:
    """The same code, but for the function that it finds under the name."""
    names = {**forward.__globals__, _NAME: rotate}
    copy = FunctionType(forward.__code__, names, forward.__name__, forward.__defaults__, forward.__closure__)
    copy.__kwdefaults__ = forward.__kwdefaults__
    return copy
