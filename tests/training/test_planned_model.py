"""A run that shrinks on its way: the plan becomes smaller in the middle of it, and the numbers stay what they were."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from peft import LoraConfig
from torch import Tensor
from transformers import AutoModelForCausalLM, LlamaConfig

from pocketft.engine.batch import MicroBatch
from pocketft.engine.loss import LossTiles
from pocketft.engine.model import EngineModel, build_model
from pocketft.engine.residency import Residence
from pocketft.engine.step import StepSettings, token_losses
from pocketft.errors import MemoryCapError
from pocketft.memory.candidates import TILES
from pocketft.memory.guard import Guard
from pocketft.memory.plan import Plan, Rise
from pocketft.memory.shrink import BEFORE_A_STEP
from pocketft.training.planned_model import PlannedModel
from tests.engine.memory_source import MemorySource, as_affine4

BLOCKS = 4
CONFIG = LlamaConfig(
    vocab_size=300,
    hidden_size=32,
    intermediate_size=48,
    num_hidden_layers=BLOCKS,
    num_attention_heads=2,
    num_key_value_heads=1,
    tie_word_embeddings=True,
)
ENOUGH = 1 << 40


class ShortGuard(Guard):
    """Memory is short at the looks with these numbers, counted from 0, by so much that everything has to go, until
    there is nothing left to move; refused where `refuse` says so.
    """

    def __init__(self, short_at: tuple[int, ...] = (), refuse: tuple[int, ...] = (), error: Any = None) -> None:
        super().__init__(ENOUGH)
        self.looks = -1
        self._short_at, self._refuse, self._error = short_at, refuse, error
        self._asked = (-1, 0)

    def is_tight(self, coming_bytes: int) -> bool:
        self.looks += 1
        if self.looks in self._refuse:
            raise self._error
        return self.looks in self._short_at

    def be_frugal(self) -> bool:
        first, self._frugal = not self._frugal, True
        return first

    def missing_bytes(self, coming_bytes: int) -> int:
        """The last question, about the next block alone, is answered with no."""
        question = (self.looks, coming_bytes)
        asked_twice, self._asked = self._asked == question, question
        return 0 if asked_twice else 20_000


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("POCKETFT_HOME", str(tmp_path))


def source() -> MemorySource:
    torch.manual_seed(0)
    return MemorySource(AutoModelForCausalLM.from_config(CONFIG), as_affine4)


def build(residences: tuple[Residence, ...]) -> EngineModel:
    lora = LoraConfig(r=2, lora_alpha=4, lora_dropout=0.1, target_modules="all-linear", task_type="CAUSAL_LM")
    model = build_model(CONFIG, source(), lora=lora, residences=residences, seed=1)
    with torch.no_grad():  # B starts at zero, which would hide the adapter
        for name, parameter in model.lora_parameters():
            parameter.copy_(torch.randn(parameter.shape, generator=torch.Generator().manual_seed(len(name))) * 0.05)
    return model


def plan(residences: tuple[Residence, ...], kept: int = 0, micro_batch: int = 2) -> Plan:
    return Plan(
        micro_batch=micro_batch,
        residences=residences,
        kept_blocks=kept,
        keep_attention=False,
        loss_tiles=LossTiles(),
        compute_dtype="float32",
        components={
            "weights": 10_000_000,
            "block_inputs": 100_000,
            "call_arguments": 0,
            "kept_graphs": kept * 50_000,
            "workspace": 20_000_000,
        },
        tight_allocator=False,
        spill_inputs=False,
        stream_ends=False,
        rise=Rise(forward=5_000_000, kept=1000 if kept else 0, backward=5_000_000, again=5_000_000, loss=20_000_000),
        cap_bytes=ENOUGH,
        tokens_per_s=1.0,
        total_s=1.0,
    )


def batches(rows: int = 2) -> list[MicroBatch]:
    generator = torch.Generator().manual_seed(5)
    made = []
    for _ in range(2):
        ids = torch.randint(3, CONFIG.vocab_size, (rows, 24), generator=generator)
        made.append(MicroBatch(ids, ids.clone(), torch.arange(24).expand(rows, -1)))
    return made


def step(
    residences: tuple[Residence, ...], guard: Guard, kept: int = 0, before: Callable[[PlannedModel], None] | None = None
) -> tuple[float, dict[str, Tensor], PlannedModel, list[str]]:
    model = build(residences)
    planned = PlannedModel(model, plan(residences, kept), guard)
    actions: list[str] = []
    planned.report = lambda event: actions.append(event["action"])
    if before is not None:
        before(planned)
    try:
        loss = planned.train_step(batches(), seed=7)
        return loss, {n: p.grad.clone() for n, p in planned.parameters() if p.grad is not None}, planned, actions
    finally:
        model.close()


def assert_same(got: dict[str, Tensor], expected: dict[str, Tensor], **tolerance: float) -> None:
    assert got.keys() == expected.keys() and len(expected) == 2 * 7 * BLOCKS
    for name, gradient in expected.items():
        if tolerance:
            torch.testing.assert_close(got[name], gradient, **tolerance)
        else:
            assert torch.equal(got[name], gradient), name


DENSE: tuple[Residence, ...] = ("dense",) * BLOCKS
MIXED: tuple[Residence, ...] = ("dense", "dense", "packed", "packed")
STREAMED: tuple[Residence, ...] = ("streamed",) * BLOCKS
LOOKS = 2 * BLOCKS + 2  # before the first block, behind each on both ways, behind the loss


@pytest.mark.parametrize("residences", [DENSE, MIXED])
@pytest.mark.parametrize("kept", [0, 2])
@pytest.mark.parametrize("look", [0, BLOCKS, BLOCKS + 3])
def test_weights_that_move_in_the_middle_of_a_step_change_no_bit(
    residences: tuple[Residence, ...], kept: int, look: int
) -> None:
    loss, gradients, _, quiet = step(residences, ShortGuard(), kept)
    moved_loss, moved, planned, actions = step(residences, ShortGuard(short_at=(look, look + 2)), kept)
    assert quiet == [] and moved_loss == loss
    assert_same(moved, gradients)
    assert planned.plan.residences != residences
    assert actions[0] == "freed memory is now given back at once" and all("now" in action for action in actions)


def test_everything_a_plan_has_to_give_changes_only_the_order_of_sums() -> None:
    loss, gradients, _, _ = step(MIXED, ShortGuard(), kept=2)

    def shrink(planned: PlannedModel) -> None:
        planned._shrink_by(ENOUGH, BEFORE_A_STEP)

    small_loss, small, planned, actions = step(MIXED, ShortGuard(), kept=2, before=shrink)
    now = planned.plan
    assert (now.micro_batch, now.kept_blocks, now.spill_inputs, now.loss_tiles) == (1, 0, True, TILES[-1])
    assert set(now.residences) == {"streamed"} and len(actions) >= 7
    assert small_loss == pytest.approx(loss, rel=1e-6)
    assert_same(small, gradients, rtol=1e-4, atol=1e-7)


@pytest.mark.parametrize("error", [MemoryError(), RuntimeError("[enforce fail] can't allocate memory: 1 bytes")])
@pytest.mark.parametrize("look", [0, 1, BLOCKS + 1, LOOKS - 1])
def test_a_step_that_memory_is_refused_in_is_carried_out_again_from_its_start(error: Exception, look: int) -> None:
    loss, gradients, _, _ = step(MIXED, ShortGuard())
    again_loss, again, _, actions = step(MIXED, ShortGuard(refuse=(look,), error=error))
    assert again_loss == pytest.approx(loss, rel=1e-6)
    assert_same(again, gradients, rtol=1e-4, atol=1e-7)
    assert len(actions) >= 2


def test_the_smallest_plan_too_gets_a_second_chance_at_a_refusal() -> None:
    """What was refused may have been address space, of which there is more once what is reserved is known."""
    smallest = replace(plan(STREAMED), micro_batch=1, loss_tiles=TILES[-1], spill_inputs=True, kept_blocks=0)
    planned = PlannedModel(build(STREAMED), smallest, ShortGuard(refuse=(2,), error=MemoryError()))
    planned.train_step(batches(), seed=1)
    assert planned.plan == replace(smallest, tight_allocator=True)
    twice = PlannedModel(build(STREAMED), smallest, ShortGuard(refuse=(2, 5), error=MemoryError()))
    with pytest.raises(MemoryError):
        twice.train_step(batches(), seed=1)


def test_a_step_is_given_up_after_a_few_attempts() -> None:
    guard = ShortGuard(refuse=tuple(range(1000)), error=MemoryCapError("never enough"))
    with pytest.raises(MemoryCapError, match="never enough"):
        step(MIXED, guard)
    assert guard.looks < 10


def test_other_errors_are_not_taken_for_a_lack_of_memory() -> None:
    guard = ShortGuard(refuse=(3,), error=RuntimeError("shapes do not match"))
    with pytest.raises(RuntimeError, match="shapes"):
        step(MIXED, guard)
    assert guard.looks == 3


def test_an_evaluation_is_repeated_too() -> None:
    model = build(DENSE)
    quiet = PlannedModel(model, plan(DENSE), ShortGuard()).eval_loss(batches())
    guard = ShortGuard(refuse=(2,), error=MemoryError())
    planned = PlannedModel(model, plan(DENSE), guard)
    loss, tokens = planned.eval_loss(batches())
    assert tokens == quiet[1] and loss == pytest.approx(quiet[0], rel=1e-6)
    assert planned.plan != plan(DENSE) and not planned.plan.spill_inputs


def test_what_an_evaluation_took_after_its_last_block_is_looked_at_too() -> None:
    quiet = ShortGuard()
    PlannedModel(build(DENSE), plan(DENSE), quiet).eval_loss(batches())
    guard = ShortGuard(refuse=(quiet.looks,), error=MemoryCapError("more than the cap"))
    planned = PlannedModel(build(DENSE), plan(DENSE), guard)
    with pytest.raises(MemoryCapError, match="more than the cap"):  # it is over: nothing could be done in less memory
        planned.eval_loss(batches())
    assert guard.looks == quiet.looks and planned.plan == plan(DENSE)


@pytest.mark.parametrize("look", [0, BLOCKS - 1])
def test_losses_of_single_tokens_are_repeated_too_and_keep_their_order(look: int) -> None:
    model, given = build(DENSE), batches(rows=3)
    given[0].labels[1, 5:] = -100  # rows of different numbers of loss tokens
    expected = token_losses(model, given, StepSettings(LossTiles()))
    guard = ShortGuard(refuse=(look,), error=MemoryError())
    planned = PlannedModel(model, plan(DENSE), guard)
    losses, greedy = planned.token_losses(given)
    assert guard.looks >= look + BLOCKS and planned.micro_batch == 1
    torch.testing.assert_close(losses, torch.cat([one for one, _ in expected]), rtol=1e-5, atol=1e-6)
    assert torch.equal(greedy, torch.cat([said for _, said in expected]))


def test_at_a_border_what_a_step_gathers_counts_too(monkeypatch: pytest.MonkeyPatch) -> None:
    """Free: enough for the next block, not for the graphs that the plan keeps. The step is made smaller before."""
    model, made = build(DENSE), plan(DENSE, kept=4)
    planned = PlannedModel(model, made, Guard(ENOUGH))
    used = ENOUGH - made.rise.at_worst() - 150_000
    monkeypatch.setattr("pocketft.memory.guard.rss_bytes", lambda: used)
    monkeypatch.setattr("pocketft.memory.guard.peak_rss_bytes", lambda: ENOUGH - 1)
    planned.check_memory()
    assert planned.plan.loss_tiles != made.loss_tiles or planned.plan.kept_blocks < 4
    assert planned.plan.held_bytes + planned.plan.rise.at_worst() <= ENOUGH - used


def test_the_first_block_behind_the_loss_is_not_taken_to_find_room_where_the_one_before_was() -> None:
    class Watched(Guard):
        likes: tuple[bool, ...] = ()

        def stay_within(self, *sizes: int, after_its_like: bool) -> None:
            self.likes += (after_its_like,)

    guard = Watched(ENOUGH)
    PlannedModel(build(DENSE), plan(DENSE), guard).train_step(batches(), seed=0)
    to_the_loss, back_from_it = (False, *[True] * (BLOCKS - 1), False), (False, *[True] * BLOCKS)
    assert guard.likes == to_the_loss + back_from_it
