"""RMSNorm with a hand-written backward pass that keeps its input and one number per token.

transformers writes RMSNorm as six tensor operations, each of which autograd saves in fp32. This replaces the modules
that are proven, on random numbers, to compute the same function; it knows no model by name.

    y = x / sqrt(mean(x^2) + eps) * w          Zhang & Sennrich 2019
    dx = r (g - x r^2 mean(g x)),  g = dy * w, r = 1 / sqrt(mean(x^2) + eps)
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn


class FrozenRMSNorm(nn.Module):
    """x (..., d) -> (..., d); `weight` (d,) is what multiplies, whatever offset the model's file stores."""

    def __init__(self, weight: Tensor, eps: float) -> None:
        super().__init__()
        self.weight = nn.Parameter(weight, requires_grad=False)
        self.eps = eps

    def forward(self, x: Tensor) -> Tensor:
        return _RMSNorm.apply(x, self.weight, self.eps)


class _RMSNorm(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, eps: float) -> Tensor:
        x_f32 = x.float()
        norm = torch.linalg.vector_norm(x_f32, dim=-1, keepdim=True)  # (..., 1); squares are nowhere written down
        inverse_rms = norm.square_().div_(x.shape[-1]).add_(eps).rsqrt_()
        ctx.save_for_backward(x, weight, inverse_rms)
        y = x_f32.mul_(inverse_rms) if x.dtype != torch.float32 else x * inverse_rms  # x itself must stay
        return y.mul_(weight).to(x.dtype)

    @staticmethod
    def backward(ctx: Any, *grad_outputs: Tensor) -> tuple[Tensor | None, ...]:
        x, weight, inverse_rms = ctx.saved_tensors
        x_hat = x.float().mul_(inverse_rms) if x.dtype != torch.float32 else x * inverse_rms
        g = grad_outputs[0].float() * weight
        along = (g * x_hat).mean(dim=-1, keepdim=True)
        dx = g.sub_(x_hat.mul_(along)).mul_(inverse_rms)
        return dx.to(x.dtype), None, None


def replace_rms_norms(root: nn.Module) -> None:
    """Replace, in place, each module below `root` that is an RMSNorm in fact."""
    for parent in list(root.modules()):
        for name, child in list(parent.named_children()):
            frozen = _as_rms_norm(child)
            if frozen is not None:
                setattr(parent, name, frozen)


def _as_rms_norm(module: nn.Module) -> FrozenRMSNorm | None:
    """`module` as a FrozenRMSNorm if it computes x / rms(x) * w or x / rms(x) * (1 + w), else None."""
    weight = getattr(module, "weight", None)
    eps = getattr(module, "variance_epsilon", getattr(module, "eps", None))
    if next(module.children(), None) is not None or not isinstance(eps, float) or weight is None or weight.dim() != 1:
        return None
    if list(dict(module.named_parameters())) != ["weight"]:
        return None
    generator = torch.Generator().manual_seed(0)
    width = weight.shape[0]
    probe = torch.randn(3, width, generator=generator) * torch.tensor([[1.0], [1e-2], [1e-4]])  # so that eps shows
    trial = torch.rand(width, generator=generator)
    expected = torch.func.functional_call(module, {"weight": trial}, (probe,))
    for offset in (0.0, 1.0):
        candidate = FrozenRMSNorm(trial + offset, eps)
        if torch.allclose(candidate(probe), expected, rtol=1e-5, atol=1e-6):
            return FrozenRMSNorm((weight.detach().float() + offset).to(weight.device), eps)
    return None
