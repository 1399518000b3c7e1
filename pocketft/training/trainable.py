"""What the loop asks of a model: the engine under its plan, seen from above.

Knows verbs, not how any of them is carried out. `planned_model.py` is the real one.
"""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import AbstractContextManager
from typing import Any, Protocol

from torch import Tensor

from pocketft.engine.batch import MicroBatch
from pocketft.training.optimizer import NamedParameters


class Trainable(Protocol):
    @property
    def micro_batch(self) -> int:
        """Rows computed together, as the plan has it now."""
        ...

    def plan_json(self) -> dict[str, Any]:
        """How it is trained now: a run that is resumed goes on in the same way."""
        ...

    def parameters(self) -> NamedParameters:
        """The fp32 masters, in a stable order."""
        ...

    def train_step(self, micro_batches: Sequence[MicroBatch], seed: int) -> float:
        """Add the gradient of the mean loss over all loss tokens to the parameters' `.grad`; returns that mean."""
        ...

    def eval_loss(self, micro_batches: Sequence[MicroBatch]) -> tuple[float, int]:
        """Sum of the losses and number of loss tokens, without dropout."""
        ...

    def adapter_disabled(self) -> AbstractContextManager[None]: ...

    def adapter_state(self) -> dict[str, Tensor]:
        """The adapter under PEFT's names."""
        ...

    def check_memory(self) -> None:
        """Make room for the next step. Raises MemoryCapError where it would cross the cap all the same."""
        ...
