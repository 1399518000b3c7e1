"""How far a run has come: everything the loop decides by, as one value that fits in a checkpoint's JSON."""

from __future__ import annotations

from dataclasses import asdict, dataclass, fields
from typing import Any


@dataclass(frozen=True)
class TrainState:
    """After `step` optimizer steps. The place in the data and the learning rate follow from `step` alone."""

    step: int = 0
    tokens: int = 0
    examples: int = 0
    loss: float | None = None  # of the last step
    eval_loss: float | None = None  # of the last evaluation
    base_eval_loss: float | None = None
    evaluated_step: int = -1
    best_step: int = -1
    best_eval_loss: float | None = None
    evals_without_gain: int = 0
    elapsed_s: float = 0.0

    def to_json(self) -> dict[str, Any]:
        return asdict(self)

    @classmethod
    def from_json(cls, values: dict[str, Any]) -> TrainState:
        return cls(**{field.name: values[field.name] for field in fields(cls)})
