"""The schedule, the clipping and the optimizer must be those that everyone compares with, and continue bit for bit."""

from __future__ import annotations

import copy
import math
from typing import Literal

import pytest
import torch
from torch.nn import Parameter

from pocketft.errors import CheckpointError
from pocketft.training.optimizer import (
    apply_step,
    learning_rate,
    make_optimizer,
    optimizer_state,
    restore_optimizer,
)

KINDS: list[Literal["adamw", "adamw8bit"]] = ["adamw", "adamw8bit"]


def parameters() -> list[tuple[str, Parameter]]:
    draw = torch.Generator().manual_seed(0)
    return [
        ("one.lora_A.weight", Parameter(torch.randn(8, 640, generator=draw))),
        ("one.lora_B.weight", Parameter(torch.zeros(640, 8))),
        ("two.lora_A.weight", Parameter(torch.randn(4, 16, generator=draw))),
    ]


def give_gradients(named: list[tuple[str, Parameter]], step: int) -> None:
    draw = torch.Generator().manual_seed(step)
    for _, parameter in named:
        parameter.grad = torch.randn(parameter.shape, generator=draw)


@pytest.mark.parametrize("schedule", ["cosine", "linear", "constant"])
@pytest.mark.parametrize(("steps", "warmup"), [(40, 10), (40, 0), (5, 10)])
def test_the_schedule_is_that_of_transformers(
    schedule: Literal["cosine", "linear", "constant"], steps: int, warmup: int
) -> None:
    from transformers import get_scheduler

    optimizer = torch.optim.SGD([Parameter(torch.zeros(1))], lr=2e-4)
    name = "constant_with_warmup" if schedule == "constant" else schedule
    theirs = get_scheduler(name, optimizer, num_warmup_steps=warmup, num_training_steps=steps)
    for step in range(steps):
        ours = learning_rate(step, steps, peak=2e-4, warmup_steps=warmup, schedule=schedule)
        assert ours == pytest.approx(theirs.get_last_lr()[0], rel=1e-12, abs=1e-18)
        optimizer.step()
        theirs.step()


@pytest.mark.parametrize("max_norm", [0.5, 1e6])
def test_clipping_and_step_equal_plain_torch(max_norm: float) -> None:
    named = parameters()
    reference = [copy.deepcopy(parameter) for _, parameter in named]
    optimizer = make_optimizer(named, "adamw", weight_decay=0.01)
    plain = torch.optim.AdamW(reference, lr=3e-3, weight_decay=0.01, foreach=False)
    for step in range(4):
        give_gradients(named, step)
        for parameter, (_, ours) in zip(reference, named, strict=True):
            parameter.grad = ours.grad.clone()  # type: ignore[union-attr]
        norm = apply_step(optimizer, named, 3e-3, max_norm)
        expected_norm = torch.nn.utils.clip_grad_norm_(reference, max_norm)
        plain.step()
        assert norm == pytest.approx(float(expected_norm), rel=1e-6)
        assert all(parameter.grad is None for _, parameter in named)
    for parameter, (_, ours) in zip(reference, named, strict=True):
        torch.testing.assert_close(ours, parameter, rtol=1e-5, atol=1e-7)


def test_a_norm_that_is_no_number_changes_nothing() -> None:
    named = parameters()
    optimizer = make_optimizer(named, "adamw", 0.0)
    give_gradients(named, 0)
    named[0][1].grad[0, 0] = float("nan")  # type: ignore[index]
    before = [parameter.detach().clone() for _, parameter in named]
    assert math.isnan(apply_step(optimizer, named, 1e-2, 1.0))
    assert not optimizer.state
    assert all(torch.equal(old, parameter) for old, (_, parameter) in zip(before, named, strict=True))


@pytest.mark.parametrize("kind", KINDS)
def test_a_restored_optimizer_goes_on_bit_for_bit(kind: Literal["adamw", "adamw8bit"]) -> None:
    named = parameters()
    optimizer = make_optimizer(named, kind, 0.01)
    for step in range(3):
        give_gradients(named, step)
        apply_step(optimizer, named, 1e-3, 1.0)
    tensors, numbers = optimizer_state(optimizer, named)
    restored = [(name, copy.deepcopy(parameter)) for name, parameter in named]
    second = make_optimizer(restored, kind, 0.01)
    entries = {name: tensor.clone() for name, tensor in tensors.items()}
    restore_optimizer(second, restored, [*entries.items(), *numbers.items()])
    for step in range(3, 6):
        give_gradients(named, step)
        give_gradients(restored, step)
        apply_step(optimizer, named, 1e-3, 1.0)
        apply_step(second, restored, 1e-3, 1.0)
    for (_, one), (_, other) in zip(named, restored, strict=True):
        assert torch.equal(one, other)


def test_state_of_another_adapter_is_refused() -> None:
    named = parameters()
    optimizer = make_optimizer(named, "adamw", 0.0)
    with pytest.raises(CheckpointError, match="unknown parameter"):
        restore_optimizer(optimizer, named, [("exp_avg.three.lora_A.weight", torch.zeros(4, 16))])


def test_eight_bit_states_take_a_quarter() -> None:
    sizes = {}
    for kind in KINDS:
        named = [("wide.lora_A.weight", Parameter(torch.randn(16, 4096)))]
        optimizer = make_optimizer(named, kind, 0.0)
        give_gradients(named, 0)
        apply_step(optimizer, named, 1e-3, 1.0)
        sizes[kind] = sum(tensor.nbytes for tensor in optimizer_state(optimizer, named)[0].values())
    assert sizes["adamw8bit"] < 0.3 * sizes["adamw"]
