"""The engine's model run as the plan says, in the verbs that the loop knows (`trainable.py`).

Where memory runs short on the way, the plan is replaced by a smaller one before the cap is reached (`shrink.py`); the
mathematics stays. A step in which that comes too late is carried out again from its beginning. Knows engine, plan and
guard; nothing of data or files.
"""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from dataclasses import replace
from io import BufferedRandom
from typing import Any, TypeVar

import torch
from torch import Tensor

from pocketft.engine.batch import MicroBatch
from pocketft.engine.model import EngineModel
from pocketft.engine.step import Coming, StepSettings, eval_loss, token_losses, train_step
from pocketft.files import storage_errors
from pocketft.memory.guard import OUT_OF_MEMORY, Guard, is_out_of_memory
from pocketft.memory.meter import peak_rss_bytes, rss_bytes
from pocketft.memory.plan import Plan
from pocketft.memory.shrink import (
    BEFORE_A_STEP,
    BEFORE_AN_EVALUATION,
    BETWEEN_BLOCKS,
    Change,
    Measure,
    ModelSizes,
    next_change,
)
from pocketft.models.location import cache_home
from pocketft.training.events import Reporter
from pocketft.training.optimizer import NamedParameters

_REPEATS = 4  # of one step, each in a plan that is smaller by twice as much as the one before, if there is one
_FIRST_CUT = 1 / 40  # of the cap

T = TypeVar("T")


class PlannedModel:
    """`plan` is how the model is run now; `report` hears of every change of it."""

    def __init__(self, model: EngineModel, plan: Plan, guard: Guard) -> None:
        self.plan = plan
        self.report: Reporter = lambda event: None
        self._model = model
        self._guard = guard
        self._came: Coming | None = None  # since the last look
        self._spill = _nameless_file() if plan.spill_inputs else None
        residency = model.residency
        self._sizes = ModelSizes(residency.dense_bytes(), residency.packed_bytes(), model.head.shape[1])

    @property
    def micro_batch(self) -> int:
        return self.plan.micro_batch

    def plan_json(self) -> dict[str, Any]:
        return self.plan.to_json()

    def parameters(self) -> NamedParameters:
        return self._model.lora_parameters()

    def train_step(self, micro_batches: Sequence[MicroBatch], seed: int) -> float:
        def once(batches: Sequence[MicroBatch]) -> float:
            with storage_errors(cache_home()):
                return train_step(self._model, batches, self._settings(seed)).loss

        return self._repeated(once, micro_batches, BEFORE_A_STEP)

    def eval_loss(self, micro_batches: Sequence[MicroBatch]) -> tuple[float, int]:
        def once(batches: Sequence[MicroBatch]) -> tuple[float, int]:
            return eval_loss(self._model, batches, self._settings(0))

        return self._evaluated(once, micro_batches)

    def token_losses(self, micro_batches: Sequence[MicroBatch]) -> tuple[Tensor, Tensor]:
        """Of all loss tokens, row by row: the loss, (N,) fp32, and whether the model would have said just this token,
        (N,) bool.
        """

        def once(batches: Sequence[MicroBatch]) -> tuple[Tensor, Tensor]:
            losses, greedy = zip(*token_losses(self._model, batches, self._settings(0)), strict=True)
            return torch.cat(losses), torch.cat(greedy)

        return self._evaluated(once, micro_batches)

    def adapter_disabled(self) -> AbstractContextManager[None]:
        return self._model.adapter_disabled()

    def adapter_state(self) -> dict[str, Tensor]:
        return self._model.adapter_state()

    def check_memory(self) -> None:
        """At the border of a step, where anything about the plan may change."""
        self._make_room(self.plan.held_bytes, BEFORE_A_STEP)

    def check_between_blocks(self, coming: Coming = "block") -> None:
        self._make_room(0, BETWEEN_BLOCKS, coming)

    def _make_room(self, held_bytes: int, measures: Sequence[Measure], coming: Coming = "block") -> None:
        """Shrink until what is held in a step and the next rise fit. Raises MemoryCapError where the rise alone would
        not.
        """
        guard, rise = self._guard, self.plan.rise
        graphs_bytes = self.plan.components["kept_graphs"]
        expected_bytes, coming_bytes = self.plan.predicted_peak_bytes, rise.until_next_look(coming)
        is_after_its_like, self._came = coming == self._came == "block", coming
        guard.stay_within(expected_bytes, coming_bytes, graphs_bytes, after_its_like=is_after_its_like)
        if not guard.is_tight(rise.at_worst(coming)):
            return
        self._be_frugal()
        while missing := guard.missing_bytes(self.plan.rise.at_worst(coming) + held_bytes):
            change = next_change(self.plan, self._sizes, missing, measures)
            if change is None:
                break
            self._adopt(change)
            held_bytes = min(held_bytes, self.plan.held_bytes)
        coming_bytes = self.plan.rise.at_worst(coming)
        if guard.missing_bytes(coming_bytes):
            raise guard.refusal(coming_bytes)

    def _evaluated(self, once: Callable[[Sequence[MicroBatch]], T], batches: Sequence[MicroBatch]) -> T:
        found = self._repeated(once, batches, BEFORE_AN_EVALUATION)
        self._guard.is_tight(0)  # the loss comes after the last block, and nothing may come after that
        return found

    def _repeated(
        self, once: Callable[[Sequence[MicroBatch]], T], batches: Sequence[MicroBatch], measures: Sequence[Measure]
    ) -> T:
        """What `once` gives, tried again where memory is refused: in smaller plans, in the smallest one once."""
        onednn = torch.backends.mkldnn.enabled
        for attempt in range(_REPEATS):
            try:
                return once(_in_groups(batches, self.micro_batch))
            except OUT_OF_MEMORY as error:
                torch.backends.mkldnn.enabled = onednn  # torch turns it off when it is refused memory
                if not is_out_of_memory(error) or self._guard.is_crossed:
                    raise
                wanted = int(self._guard.cap_bytes * _FIRST_CUT * 2**attempt)
                if attempt and next_change(self.plan, self._sizes, wanted, measures) is None:
                    raise
            # Only here are the tensors of the failed attempt gone: they hang on the error.
            self._model.forget_pass()
            for _, parameter in self.parameters():
                parameter.grad = None
            self._be_frugal()
            self._guard.after_refusal()
            self._shrink_by(wanted, measures)
        return once(_in_groups(batches, self.micro_batch))

    def _shrink_by(self, wanted_bytes: int, measures: Sequence[Measure]) -> None:
        while wanted_bytes > 0 and (change := next_change(self.plan, self._sizes, wanted_bytes, measures)):
            self._adopt(change)
            wanted_bytes -= change.freed_bytes

    def _adopt(self, change: Change) -> None:
        for index, residence in enumerate(change.plan.residences):
            if residence != self.plan.residences[index]:
                self._model.residency.move(index, residence)
        if change.plan.spill_inputs and self._spill is None:
            self._spill = _nameless_file()
        self.plan = change.plan
        self._tell(change.action)

    def _be_frugal(self) -> None:
        if self._guard.be_frugal():
            self.plan = replace(self.plan, tight_allocator=True)
            self._tell("freed memory is now given back at once")

    def _tell(self, action: str) -> None:
        sizes = {"rss": rss_bytes(), "peak": peak_rss_bytes(), "cap": self._guard.cap_bytes}
        self.report({"event": "memory", "action": action, **sizes})

    def _settings(self, seed: int) -> StepSettings:
        return StepSettings(
            loss_tiles=self.plan.loss_tiles,
            kept_blocks=self.plan.kept_blocks,
            keep_attention=self.plan.keep_attention,
            spill_to=None if self._spill is None else self._spill.fileno(),
            dropout_seed=seed,
            at_border=self.check_between_blocks,
        )


def _in_groups(batches: Sequence[MicroBatch], rows: int) -> list[MicroBatch]:
    """The same rows in the same order, at most `rows` together."""
    return [
        MicroBatch(batch.input_ids[at : at + rows], batch.labels[at : at + rows], batch.position_ids[at : at + rows])
        for batch in batches
        for at in range(0, len(batch.input_ids), rows)
    ]


def _nameless_file() -> BufferedRandom:
    """In the cache's folder, as a temporary one may itself lie in memory; gone when the process is, however it ends."""
    with storage_errors(cache_home()):
        cache_home().mkdir(parents=True, exist_ok=True)
        return tempfile.TemporaryFile(dir=cache_home())  # type: ignore[return-value]
