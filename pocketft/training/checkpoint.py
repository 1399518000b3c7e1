"""Checkpoints: all that a run needs to go on as if it had never stopped, in safetensors and JSON only.

    checkpoint-<step>/
        adapter.safetensors        fp32 masters
        optimizer.safetensors      optimizer state and the random generator
        best_adapter.safetensors   the best adapter so far, in PEFT's format; absent where none was evaluated yet
        state.json                 TrainState, what the run is made of, the plan, and the SHA-256 of the files above

A checkpoint is written under a temporary name and renamed, `state.json` last, so a kill at any moment leaves whole ones
whole; a folder whose sums do not match is passed over. Knows parameters and files, not the loop.
"""

from __future__ import annotations

import json
import re
import shutil
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from itertools import chain
from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open
from torch import Tensor

from pocketft.errors import CheckpointError
from pocketft.files import atomic_folder, sha256_of, storage_errors, write_json
from pocketft.training.events import Reporter, notice
from pocketft.training.optimizer import NamedParameters, optimizer_state, restore_optimizer
from pocketft.training.state import TrainState
from pocketft.training.tensor_file import save_tensors

FORMAT = 1
KEPT = 2  # the one before the newest survives damage to the newest
_ADAPTER, _OPTIMIZER, _BEST = "adapter.safetensors", "optimizer.safetensors", "best_adapter.safetensors"
_STATE = "state.json"
_RNG = "rng.cpu"
_MAPPED_BYTES = 8 << 20  # of a file that is read through one mapping
_NAME = re.compile(r"\.?checkpoint-(\d+)(\..*)?")  # with the temporary names of files.atomic_folder


@dataclass(frozen=True)
class Checkpoint:
    path: Path
    state: TrainState
    identity: dict[str, Any]  # what the run is made of; a resumed run must be made of the same
    plan: dict[str, Any]

    @property
    def best_adapter(self) -> Path | None:
        path = self.path / _BEST
        return path if path.exists() else None


def save_checkpoint(
    folder: Path,
    state: TrainState,
    parameters: NamedParameters,
    optimizer: torch.optim.Optimizer,
    best_adapter: Path | None,
    identity: Mapping[str, Any],
    plan: Mapping[str, Any],
) -> Path:
    """Write checkpoint-<step> into `folder` and drop all but the newest two."""
    tensors, numbers = optimizer_state(optimizer, parameters)
    path = folder / f"checkpoint-{state.step}"
    with atomic_folder(path) as temporary:
        save_tensors({name: parameter.detach() for name, parameter in parameters}, temporary / _ADAPTER)
        save_tensors({**_unshared(tensors), _RNG: torch.get_rng_state()}, temporary / _OPTIMIZER)
        if best_adapter is not None:
            shutil.copyfile(best_adapter, temporary / _BEST)
        sums = {file.name: sha256_of(file) for file in sorted(temporary.iterdir())}
        write_json(
            temporary / _STATE,
            {
                "format": FORMAT,
                "state": state.to_json(),
                "identity": dict(identity),
                "plan": dict(plan),
                "optimizer_numbers": numbers,
                "sha256": sums,
            },
        )
    _prune(folder)
    return path


def newest_checkpoint(folder: Path, report: Reporter) -> Checkpoint | None:
    """The whole checkpoint with the most steps; damaged ones are named and passed over. None where there is none."""
    for path in _by_age(folder):
        try:
            return _open(path)
        except CheckpointError as error:
            if not path.name.startswith("."):  # a temporary folder is expected to be half a checkpoint
                notice(report, f"{error}; going back to an older one", "warning")
    return None


def restore_checkpoint(checkpoint: Checkpoint, parameters: NamedParameters, optimizer: torch.optim.Optimizer) -> None:
    """Put parameters, optimizer state and random generator back as they were. Raises CheckpointError."""
    by_name = dict(parameters)
    with safe_open(checkpoint.path / _ADAPTER, framework="pt") as file:
        differing = sorted(set(file.keys()) ^ set(by_name))[:3]
    if differing:
        raise CheckpointError(
            f"{checkpoint.path.name} is of another adapter (differs in {', '.join(differing)}); start anew"
        )
    for name, tensor in _tensors(checkpoint.path / _ADAPTER):
        if tensor.shape != by_name[name].shape:
            raise CheckpointError(f"{checkpoint.path.name}: {name} has another shape; start anew")
        by_name[name].detach().copy_(tensor)
    numbers = json.loads((checkpoint.path / _STATE).read_text(encoding="utf-8"))["optimizer_numbers"]
    entries = ((name, tensor) for name, tensor in _tensors(checkpoint.path / _OPTIMIZER) if name != _RNG)
    restore_optimizer(optimizer, parameters, chain(entries, numbers.items()))
    with safe_open(checkpoint.path / _OPTIMIZER, framework="pt") as file:
        torch.set_rng_state(file.get_tensor(_RNG))


def settle(checkpoint: Checkpoint) -> None:
    """Give the checkpoint that was restored its proper name, where a kill left it a temporary one, and drop those that
    are damaged or half written: they would crowd out what is saved next."""
    folder, step = checkpoint.path.parent, checkpoint.state.step
    proper = folder / f"checkpoint-{step}"
    with storage_errors(proper):
        if checkpoint.path != proper:
            shutil.rmtree(proper, ignore_errors=True)
            checkpoint.path.replace(proper)
        for path in _by_age(folder):
            if _step(path) > step or path.name.startswith("."):
                shutil.rmtree(path, ignore_errors=True)


def _open(path: Path) -> Checkpoint:
    """A checkpoint whose files are all there and as they were written. Raises CheckpointError."""
    try:
        values = json.loads((path / _STATE).read_text(encoding="utf-8"))
        if values["format"] != FORMAT:
            raise CheckpointError(f"{path.name} has format {values['format']}, this program reads {FORMAT}")
        for name, expected in values["sha256"].items():
            if sha256_of(path / name) != expected:
                raise CheckpointError(f"{path.name} is damaged ({name} has changed)")
        return Checkpoint(path, TrainState.from_json(values["state"]), values["identity"], values["plan"])
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise CheckpointError(f"{path.name} is damaged or incomplete ({type(error).__name__})") from error


def _by_age(folder: Path) -> list[Path]:
    """Newest first. Temporary folders count too: a kill between two renames may leave the only whole one there."""
    paths = [path for path in folder.glob("*") if _NAME.fullmatch(path.name)]
    return sorted(paths, key=lambda path: (_step(path), not path.name.startswith(".")), reverse=True)


def _step(path: Path) -> int:
    match = _NAME.fullmatch(path.name)
    assert match is not None
    return int(match[1])


def _prune(folder: Path) -> None:
    paths = _by_age(folder)
    named = [path for path in paths if not path.name.startswith(".")]
    for path in paths:
        if path not in named[:KEPT]:
            shutil.rmtree(path, ignore_errors=True)


def _tensors(path: Path) -> Iterator[tuple[str, Tensor]]:
    """All of a file, one after the other, to be copied at once and let go: together they would be the optimizer twice.

    So each mapping serves for a few tensors only: the pages that were read through it stay in memory as long as it.
    """
    with safe_open(path, framework="pt") as file:
        names = list(file.keys())
    while names:
        mapped = 0
        with safe_open(path, framework="pt") as file:
            while names and mapped < _MAPPED_BYTES:
                tensor = file.get_tensor(names[0])
                mapped += tensor.nbytes
                yield names.pop(0), tensor


def _unshared(tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    """Copies of those that share memory, which safetensors refuses (bitsandbytes has one table for all parameters)."""
    seen: set[int] = set()
    result = {}
    for name, tensor in tensors.items():
        result[name] = tensor.clone() if tensor.data_ptr() in seen else tensor
        seen.add(tensor.data_ptr())
    return result
