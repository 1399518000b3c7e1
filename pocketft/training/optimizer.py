"""AdamW on the LoRA masters: its learning rate, gradient clipping, and its state as plain tensors and numbers.

Knows parameters and gradients, nothing of models or files.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from typing import Literal

import torch
from torch import Tensor
from torch.nn import Parameter

from pocketft.errors import CheckpointError, UsageError

NamedParameters = Sequence[tuple[str, Parameter]]


def make_optimizer(
    parameters: NamedParameters, kind: Literal["adamw", "adamw8bit"], weight_decay: float
) -> torch.optim.Optimizer:
    """AdamW (betas 0.9, 0.999, eps 1e-8) with fp32 states, or bitsandbytes' with 8-bit states in blocks of 256."""
    tensors = [parameter for _, parameter in parameters]
    if kind == "adamw":
        # fused: one pass per tensor and no temporaries of the adapter's size
        return torch.optim.AdamW(tensors, lr=0.0, weight_decay=weight_decay, fused=True)
    try:
        from bitsandbytes.optim import AdamW8bit
    except (ImportError, RuntimeError) as error:
        raise UsageError(
            f"adamw8bit needs bitsandbytes, which does not load here ({error}); use --set training.optimizer=adamw"
        ) from error
    return AdamW8bit(tensors, lr=0.0, weight_decay=weight_decay)


def learning_rate(
    step: int, steps: int, *, peak: float, warmup_steps: int, schedule: Literal["cosine", "linear", "constant"]
) -> float:
    """Rate of optimizer step `step` (from 0) of `steps`: linear warm-up to `peak`, then the schedule down to 0.

    The curves are those of `transformers.get_scheduler`, without the 150 MB that importing it costs. A pure function of
    the step, so a resumed run needs no state.
    """
    if step < warmup_steps:
        return peak * step / warmup_steps
    progress = (step - warmup_steps) / max(1, steps - warmup_steps)
    if schedule == "cosine":
        return peak * max(0.0, 0.5 * (1.0 + math.cos(math.pi * progress)))
    if schedule == "linear":
        return peak * max(0.0, 1.0 - progress)
    return peak


def apply_step(
    optimizer: torch.optim.Optimizer, parameters: NamedParameters, rate: float, max_grad_norm: float
) -> float:
    """Clip the gradients to a global norm, take one step, drop the gradients. Returns the norm before clipping.

    `max_grad_norm` 0 does not clip. A norm that is not a number leaves parameters and states as they were.
    """
    gradients = [parameter.grad for _, parameter in parameters if parameter.grad is not None]
    norm = torch.nn.utils.get_total_norm(gradients)
    if torch.isfinite(norm):
        if max_grad_norm > 0:
            torch.nn.utils.clip_grads_with_norm_([p for _, p in parameters], max_grad_norm, norm)
        for group in optimizer.param_groups:
            group["lr"] = rate
        optimizer.step()
    optimizer.zero_grad(set_to_none=True)
    return float(norm)


def optimizer_state(
    optimizer: torch.optim.Optimizer, parameters: NamedParameters
) -> tuple[dict[str, Tensor], dict[str, float]]:
    """All state as tensors and as numbers, each named "<entry>.<parameter>"."""
    tensors: dict[str, Tensor] = {}
    numbers: dict[str, float] = {}
    for name, parameter in parameters:
        for entry, value in optimizer.state.get(parameter, {}).items():
            if isinstance(value, Tensor):
                tensors[f"{entry}.{name}"] = value
            else:
                numbers[f"{entry}.{name}"] = value
    return tensors, numbers


def restore_optimizer(
    optimizer: torch.optim.Optimizer, parameters: NamedParameters, entries: Iterable[tuple[str, Tensor | float]]
) -> None:
    """The inverse of `optimizer_state`. Raises CheckpointError where the state is of other parameters."""
    by_name = dict(parameters)
    for key, value in entries:
        entry, _, name = key.partition(".")
        if name not in by_name:
            raise CheckpointError(f"the checkpoint holds state of an unknown parameter {name:.80}; start anew")
        parameter = by_name[name]
        if isinstance(value, Tensor):
            value = value.to(parameter.device, copy=True)
        optimizer.state[parameter][entry] = value
