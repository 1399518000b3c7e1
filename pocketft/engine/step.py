"""One training step, layer by layer: every micro-batch passes block i before any passes block i + 1.

So a block's weights are read and dequantized twice per optimizer step, once forward and once backward, however many
micro-batches there are. Between the sweeps only the input of each block is kept, (B, S, d); a block is computed again
from it, with autograd on, when the gradient arrives (Chen et al. 2016), unless the settings keep its graph.

Knows the model and micro-batches; nothing of optimizers, files or schedules.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

import torch
from torch import Tensor

from pocketft.engine.attention import keeping_probabilities
from pocketft.engine.batch import IGNORE, MicroBatch
from pocketft.engine.gradient import backward_from
from pocketft.engine.inputs import BlockInputs, InFile, InMemory
from pocketft.engine.loss import LossTiles, head_loss, head_loss_and_grad, head_token_losses
from pocketft.engine.model import EngineModel

# What comes next: a block, computed again or not; one that leaves its graph; the loss; it or a backward pass on graphs.
Coming = Literal["block", "graph", "loss", "on graphs"]


def _nothing(coming: Coming) -> None:
    return None


@dataclass(frozen=True)
class StepSettings:
    """How a step is carried out; none of it but `dropout_seed` changes the result.

    `kept_blocks` blocks, the last ones, keep their autograd graph instead of being computed again; with
    `keep_attention` its probabilities are a part of each graph, and else computed from queries and keys. `at_border` is
    called between blocks, where a guard may look at the memory and raise, and told what comes next. `spill_to` is an
    open file for the inputs of blocks. `dropout_seed` 0 means no dropout.
    """

    loss_tiles: LossTiles = field(default_factory=LossTiles)
    kept_blocks: int = 0
    keep_attention: bool = False
    spill_to: int | None = None
    dropout_seed: int = 0
    at_border: Callable[[Coming], None] = _nothing


@dataclass(frozen=True)
class StepResult:
    """`loss` is the mean over the `loss_tokens` of all micro-batches."""

    loss: float
    loss_tokens: int


@dataclass
class _Pass:
    """One micro-batch on its way: its hidden states, what blocks are called with, and what backward needs."""

    batch: MicroBatch
    hidden: Tensor  # (B, S, d): input of the next block, later the gradient coming back
    arguments: list[dict[str, Any]]
    dropout_seeds: tuple[int, ...]
    kept: dict[int, tuple[Tensor, Tensor]] = field(default_factory=dict)


def train_step(model: EngineModel, micro_batches: Sequence[MicroBatch], settings: StepSettings) -> StepResult:
    """Add the gradient of the mean loss over all loss tokens to the `.grad` of the adapter's parameters.

    Raises ValueError if no token carries loss.
    """
    loss_tokens = sum(batch.loss_tokens for batch in micro_batches)
    if loss_tokens == 0:
        raise ValueError("no token of this step carries loss")
    passes = _start(model, micro_batches, settings.dropout_seed)
    if settings.keep_attention:
        for one in passes:
            one.arguments = [keeping_probabilities(arguments) for arguments in one.arguments]
    settings.at_border(_coming_forward(model, 0, settings))
    inputs: BlockInputs = InMemory() if settings.spill_to is None else InFile(settings.spill_to)
    for index in model.residency.sweep(range(len(model.layers))):
        for one in passes:
            _forward(model, index, one, inputs, settings)
        settings.at_border(_coming_forward(model, index + 1, settings))
    loss = _loss_backward(model, passes, settings, loss_tokens)
    settings.at_border(_coming_backward(passes, len(model.layers) - 1))
    for index in model.residency.sweep(range(len(model.layers) - 1, model.first_adapted - 1, -1)):
        for one in reversed(passes):  # the last input pushed is the first one popped
            _backward(model, index, one, inputs)
        settings.at_border(_coming_backward(passes, index - 1))
    return StepResult(loss / loss_tokens, loss_tokens)


@torch.no_grad()
def eval_loss(model: EngineModel, micro_batches: Sequence[MicroBatch], settings: StepSettings) -> tuple[float, int]:
    """Sum of the losses and number of loss tokens, without gradients or dropout."""
    total = 0.0
    for one in _evaluated(model, micro_batches, settings):
        hidden, targets = _with_loss(model.norm(one.hidden), one.batch)
        total += float(head_loss(hidden, targets, model.head, settings.loss_tiles))
    return total, sum(batch.loss_tokens for batch in micro_batches)


@torch.no_grad()
def token_losses(
    model: EngineModel, micro_batches: Sequence[MicroBatch], settings: StepSettings
) -> list[tuple[Tensor, Tensor]]:
    """Of each micro-batch, for its loss tokens row by row: the loss, (N,) fp32, and whether the model would have said
    just this token, (N,) bool. Both on the CPU."""
    results = []
    for one in _evaluated(model, micro_batches, settings):
        hidden, targets = _with_loss(model.norm(one.hidden), one.batch)
        losses, greedy = head_token_losses(hidden, targets, model.head, settings.loss_tiles)
        results.append((losses.cpu(), greedy.cpu()))
    return results


def _evaluated(model: EngineModel, micro_batches: Sequence[MicroBatch], settings: StepSettings) -> list[_Pass]:
    """All micro-batches behind the last block, without gradients or dropout."""
    passes = _start(model, micro_batches, dropout_seed=0)
    for index in model.residency.sweep(range(len(model.layers))):
        for one in passes:
            model.set_dropout_seeds(index, ())
            one.hidden = model.layers[index](one.hidden, **one.arguments[index])
        settings.at_border("block")
    return passes


def _start(model: EngineModel, micro_batches: Sequence[MicroBatch], dropout_seed: int) -> list[_Pass]:
    passes, row = [], 0
    for batch in micro_batches:
        hidden = model.embed(batch)
        rows = range(row, row := row + len(batch.input_ids))
        seeds = tuple(dropout_seed * 65_536 + number + 1 for number in rows) if dropout_seed else ()
        passes.append(_Pass(batch, hidden, model.call_arguments(hidden, batch), seeds))
    return passes


def _forward(model: EngineModel, index: int, one: _Pass, inputs: BlockInputs, settings: StepSettings) -> None:
    model.set_dropout_seeds(index, one.dropout_seeds)
    keep = _coming_forward(model, index, settings) == "graph"
    hidden = one.hidden.requires_grad_(index > model.first_adapted) if keep else one.hidden
    with torch.set_grad_enabled(keep):
        output = model.layers[index](hidden, **one.arguments[index])
    if keep:
        one.kept[index] = (hidden, output)
    elif index >= model.first_adapted:
        inputs.push(hidden)
    one.hidden = output.detach()


def _coming_forward(model: EngineModel, index: int, settings: StepSettings) -> Coming:
    """Block `index`, or behind the last one the loss."""
    if index == len(model.layers):
        return "on graphs" if settings.kept_blocks else "loss"
    first_kept = max(model.first_adapted, len(model.layers) - settings.kept_blocks)
    return "graph" if index >= first_kept else "block"


def _coming_backward(passes: Sequence[_Pass], index: int) -> Coming:
    return "on graphs" if index in passes[0].kept else "block"


def _backward(model: EngineModel, index: int, one: _Pass, inputs: BlockInputs) -> None:
    """Turn the gradient of the block's output into that of its input; adapters collect theirs on the way."""
    if index in one.kept:
        hidden, output = one.kept.pop(index)
    else:
        model.set_dropout_seeds(index, one.dropout_seeds)
        hidden = inputs.pop().detach().requires_grad_(index > model.first_adapted)
        output = _recompute(model, index, hidden, one.arguments[index])
    backward_from(output, one.hidden)
    if index > model.first_adapted:
        assert hidden.grad is not None
        one.hidden = hidden.grad


def _recompute(model: EngineModel, index: int, hidden: Tensor, arguments: dict[str, Any]) -> Tensor:
    end = model.block_end(index)
    if end is not None:
        end.output_unused = True
    try:
        with torch.enable_grad():
            return model.layers[index](hidden, **arguments)
    finally:
        if end is not None:
            end.output_unused = False


def _loss_backward(model: EngineModel, passes: Sequence[_Pass], settings: StepSettings, loss_tokens: int) -> float:
    """Sum of the losses; leaves in each pass the gradient of the mean loss with respect to the last block's output.

    All micro-batches go through the head together: a tile of the vocabulary is dequantized once for them all.
    """
    normed = []
    for one in passes:
        one.hidden.requires_grad_()
        with torch.enable_grad():
            normed.append(model.norm(one.hidden))
    picked = [_with_loss(n.detach(), one.batch) for n, one in zip(normed, passes, strict=True)]
    hidden = torch.cat([h for h, _ in picked])  # (N, d)
    targets = torch.cat([t for _, t in picked])  # (N,)
    loss, grad = head_loss_and_grad(hidden, targets, model.head, settings.loss_tiles)
    grad = grad.div_(loss_tokens).to(hidden.dtype)
    for part, n, one in zip(grad.split([len(t) for _, t in picked]), normed, passes, strict=True):
        dn = torch.zeros_like(n)
        dn[_loss_mask(one.batch, n.device)] = part
        backward_from(n, dn)
        assert one.hidden.grad is not None
        one.hidden = one.hidden.grad
    return float(loss)


def _loss_mask(batch: MicroBatch, device: torch.device) -> Tensor:
    return (batch.shifted_targets() != IGNORE).to(device)  # (B, S)


def _with_loss(normed: Tensor, batch: MicroBatch) -> tuple[Tensor, Tensor]:
    """The positions that carry loss: hidden states (n, d) and their targets (n,)."""
    mask = _loss_mask(batch, normed.device)
    return normed[mask], batch.shifted_targets().to(normed.device)[mask]
