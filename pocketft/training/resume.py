"""Continuing a run: only what is made of the same recipe, text and base, and from the last whole checkpoint.

Knows what makes two runs the same; nothing of how a run is computed.
"""

from __future__ import annotations

from typing import Any

import torch

from pocketft.errors import CheckpointError
from pocketft.recipe import Recipe
from pocketft.training.checkpoint import Checkpoint, newest_checkpoint, restore_checkpoint, settle
from pocketft.training.events import Reporter, notice, truncate_log
from pocketft.training.optimizer import NamedParameters
from pocketft.training.run_folder import RunFolder
from pocketft.training.state import TrainState


def run_identity(
    recipe: Recipe, base: dict[str, Any], data_fingerprint: str, group: str | None = None
) -> dict[str, Any]:
    """All that the numbers of a run follow from, flat. The memory cap and limits on steps and time are no part of it;
    the base and the common start count by their content and not by their names."""
    identity: dict[str, Any] = {}
    for section, values in recipe.model_dump().items():
        if section not in ("memory", "model"):
            identity.update({f"{section}.{key}": value for key, value in values.items()})
    identity["lora.init"] = group
    identity["base model"] = base["artifact_sha256"]
    identity["model.quantization"] = base["quantization"]
    identity["tokenizer"] = base["tokenizer_sha256"]
    identity["text"] = data_fingerprint
    return identity


def checkpoint_to_resume(folder: RunFolder, identity: dict[str, Any], report: Reporter) -> Checkpoint | None:
    """The checkpoint to go on from; None, said aloud, where the run was stopped before its first.

    Raises CheckpointError with every difference where the run was made of something else.
    """
    checkpoint = newest_checkpoint(folder.checkpoints, report)
    if checkpoint is None:
        notice(report, f"{folder.path} holds no checkpoint yet; starting from the beginning")
        return None
    differences = [
        f"{key} was {_shown(checkpoint.identity.get(key))}, now {_shown(identity.get(key))}"
        for key in dict.fromkeys([*checkpoint.identity, *identity])
        if checkpoint.identity.get(key) != identity.get(key)
    ]
    if len(differences) > 1:  # the text's key also covers how it is cut, which is told by its own names
        differences = [line for line in differences if not line.startswith("text was")]
    if differences:
        raise CheckpointError(
            f"cannot resume {folder.path}: {'; '.join(differences)}; "
            "give what it was started with, or start a new run in another folder"
        )
    return checkpoint


def restore_run(
    folder: RunFolder,
    checkpoint: Checkpoint,
    parameters: NamedParameters,
    optimizer: torch.optim.Optimizer,
) -> TrainState:
    """Put everything back to the moment of the checkpoint: tensors, log, best adapter."""
    folder.tidy()
    restore_checkpoint(checkpoint, parameters, optimizer)
    if checkpoint.best_adapter is not None:
        folder.restore_adapter(checkpoint.best_adapter)
    state = checkpoint.state
    truncate_log(folder.log, state.step, state.evaluated_step)
    settle(checkpoint)
    return state


def _shown(value: Any) -> str:
    text = str(value)
    return f"{text[:12]}…" if len(text) == 64 else text[:80]  # a SHA-256 is known by its beginning
