"""The engine's model run as the plan says, in the verbs that the loop knows (`trainable.py`).

Knows engine, plan and guard; nothing of data or files.
"""

from __future__ import annotations

import tempfile
from collections.abc import Sequence
from contextlib import AbstractContextManager
from io import BufferedRandom

from torch import Tensor

from pocketft.engine.batch import MicroBatch
from pocketft.engine.model import EngineModel
from pocketft.engine.step import StepSettings, eval_loss, token_losses, train_step
from pocketft.files import storage_errors
from pocketft.memory.guard import Guard
from pocketft.memory.planner import Plan
from pocketft.models.location import cache_home
from pocketft.training.optimizer import NamedParameters


class PlannedModel:
    def __init__(self, model: EngineModel, plan: Plan, guard: Guard) -> None:
        self._model = model
        self._plan = plan
        self._guard = guard
        self._spill = _nameless_file() if plan.spill_inputs else None

    @property
    def micro_batch(self) -> int:
        return self._plan.micro_batch

    def parameters(self) -> NamedParameters:
        return self._model.lora_parameters()

    def train_step(self, micro_batches: Sequence[MicroBatch], seed: int) -> float:
        with storage_errors(cache_home()):
            return train_step(self._model, micro_batches, self._settings(seed)).loss

    def eval_loss(self, micro_batches: Sequence[MicroBatch]) -> tuple[float, int]:
        return eval_loss(self._model, micro_batches, self._settings(0))

    def token_losses(self, micro_batches: Sequence[MicroBatch]) -> list[tuple[Tensor, Tensor]]:
        return token_losses(self._model, micro_batches, self._settings(0))

    def adapter_disabled(self) -> AbstractContextManager[None]:
        return self._model.adapter_disabled()

    def adapter_state(self) -> dict[str, Tensor]:
        return self._model.adapter_state()

    def check_memory(self) -> None:
        self._guard.check()

    def _settings(self, seed: int) -> StepSettings:
        return StepSettings(
            loss_tiles=self._plan.loss_tiles,
            kept_blocks=self._plan.kept_blocks,
            spill_to=None if self._spill is None else self._spill.fileno(),
            dropout_seed=seed,
            at_border=self._guard.check,
        )


def _nameless_file() -> BufferedRandom:
    """In the cache's folder, as a temporary one may itself lie in memory; gone when the process is, however it ends."""
    with storage_errors(cache_home()):
        cache_home().mkdir(parents=True, exist_ok=True)
        return tempfile.TemporaryFile(dir=cache_home())  # type: ignore[return-value]
