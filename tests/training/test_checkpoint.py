"""A checkpoint must restore everything, and a damaged or half-written one must never be taken for a whole one."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from torch.nn import Parameter

from pocketft.errors import CheckpointError
from pocketft.memory.meter import rss_bytes
from pocketft.training import checkpoint
from pocketft.training.checkpoint import newest_checkpoint, restore_checkpoint, save_checkpoint, settle
from pocketft.training.optimizer import apply_step, make_optimizer, restore_optimizer
from pocketft.training.state import TrainState
from tests.training.toy import ToyModel

IDENTITY = {"recipe": {"lora.r": 8}, "data": "abc", "base": "def"}


class Kept:
    """A reporter that remembers."""

    def __init__(self) -> None:
        self.messages: list[str] = []

    def __call__(self, event: dict[str, Any]) -> None:
        self.messages.append(event.get("message", ""))


def trained(steps: int = 3) -> tuple[ToyModel, torch.optim.Optimizer]:
    model = ToyModel()
    optimizer = make_optimizer(model.parameters(), "adamw", 0.0)
    for _ in range(steps):
        for _, parameter in model.parameters():
            parameter.grad = torch.ones_like(parameter)
        apply_step(optimizer, model.parameters(), 1e-3, 0.0)
    return model, optimizer


def save(folder: Path, step: int, best: Path | None = None) -> Path:
    model, optimizer = trained(step)
    state = TrainState(step=step, tokens=100 * step, loss=1.5, best_step=2 if best else -1)
    return save_checkpoint(folder, state, model.parameters(), optimizer, best, IDENTITY, {"micro_batch": 2})


def test_everything_comes_back(tmp_path: Path) -> None:
    best = tmp_path / "adapter_model.safetensors"
    best.write_bytes(b"the best so far")
    torch.manual_seed(5)
    save(tmp_path / "checkpoints", 3, best)
    expected_draw = torch.rand(4)
    best.write_bytes(b"a later one")

    found = newest_checkpoint(tmp_path / "checkpoints", Kept())
    assert found is not None
    assert found.state == TrainState(step=3, tokens=300, loss=1.5, best_step=2)
    assert (found.identity, found.plan) == (IDENTITY, {"micro_batch": 2})
    assert found.best_adapter is not None and found.best_adapter.read_bytes() == b"the best so far"

    model = ToyModel()
    optimizer = make_optimizer(model.parameters(), "adamw", 0.0)
    restore_checkpoint(found, model.parameters(), optimizer)
    reference, reference_optimizer = trained(3)
    assert torch.equal(torch.rand(4), expected_draw)
    for (_, one), (_, other) in zip(model.parameters(), reference.parameters(), strict=True):
        assert torch.equal(one, other)
        for entry, value in reference_optimizer.state[other].items():
            assert torch.equal(optimizer.state[one][entry], value)


def test_nothing_is_pickled(tmp_path: Path) -> None:
    path = save(tmp_path, 3)
    assert {file.suffix for file in path.iterdir()} == {".safetensors", ".json"}


def test_the_newest_two_are_kept(tmp_path: Path) -> None:
    for step in (1, 2, 10, 9):
        save(tmp_path, step)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["checkpoint-10", "checkpoint-9"]


@pytest.mark.parametrize("file", ["adapter.safetensors", "optimizer.safetensors", "state.json"])
@pytest.mark.parametrize("damage", ["gone", "cut", "changed"])
def test_a_damaged_one_is_named_and_passed_over(tmp_path: Path, file: str, damage: str) -> None:
    save(tmp_path, 3)
    path = save(tmp_path, 6) / file
    content = path.read_bytes()
    if damage == "gone":
        path.unlink()
    elif damage == "cut":
        path.write_bytes(content[: len(content) // 2])
    else:
        path.write_bytes(content[:20] + bytes([content[20] ^ 0x80]) + content[21:])
    report = Kept()
    found = newest_checkpoint(tmp_path, report)
    assert found is not None and found.state.step == 3
    assert "checkpoint-6" in report.messages[0] and "damaged" in report.messages[0]


def test_a_half_written_folder_is_no_checkpoint(tmp_path: Path) -> None:
    whole = save(tmp_path, 3)
    half = tmp_path / ".checkpoint-6.x1y2.tmp"
    half.mkdir()
    shutil.copy(whole / "adapter.safetensors", half)
    found = newest_checkpoint(tmp_path, Kept())
    assert found is not None and found.path == whole
    save(tmp_path, 7)
    assert not half.exists()


def test_a_kill_between_the_two_renames_of_a_replacement_loses_nothing(tmp_path: Path) -> None:
    whole = save(tmp_path, 3)
    whole.rename(tmp_path / ".checkpoint-3.x1y2.old")
    found = newest_checkpoint(tmp_path, Kept())
    assert found is not None and found.state.step == 3
    settle(found)
    assert [path.name for path in tmp_path.iterdir()] == ["checkpoint-3"]


def test_no_folder_and_an_empty_one_hold_no_checkpoint(tmp_path: Path) -> None:
    assert newest_checkpoint(tmp_path / "nothing", Kept()) is None
    assert newest_checkpoint(tmp_path, Kept()) is None


def test_damaged_ones_do_not_crowd_out_those_written_after_going_back(tmp_path: Path) -> None:
    save(tmp_path, 3)
    (save(tmp_path, 9) / "state.json").unlink()
    found = newest_checkpoint(tmp_path, Kept())
    assert found is not None
    settle(found)
    save(tmp_path, 4)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["checkpoint-3", "checkpoint-4"]


def test_restoring_holds_no_second_copy_of_the_optimizer(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    parameters = [(f"{number}.lora_A.weight", Parameter(torch.ones(512, 1024))) for number in range(24)]
    optimizer = make_optimizer(parameters, "adamw", 0.0)
    for _, parameter in parameters:
        parameter.grad = torch.ones_like(parameter)
    apply_step(optimizer, parameters, 1e-3, 0.0)
    save_checkpoint(tmp_path, TrainState(step=1), parameters, optimizer, None, IDENTITY, {})
    found = newest_checkpoint(tmp_path, Kept())
    assert found is not None
    in_use = [rss_bytes()]

    def watched(optimizer: Any, parameters: Any, entries: Any) -> None:
        restore_optimizer(optimizer, parameters, ((in_use.append(rss_bytes()), entry)[1] for entry in entries))

    monkeypatch.setattr(checkpoint, "restore_optimizer", watched)
    restore_checkpoint(found, parameters, optimizer)  # over states that are there: what it takes is for reading
    assert max(in_use) - in_use[0] < 32 << 20  # of 96 MB


def test_another_adapter_is_refused(tmp_path: Path) -> None:
    save(tmp_path, 3)
    found = newest_checkpoint(tmp_path, Kept())
    assert found is not None
    model = ToyModel()
    renamed = [(f"other.{name}", parameter) for name, parameter in model.parameters()]
    with pytest.raises(CheckpointError, match="another adapter"):
        restore_checkpoint(found, renamed, make_optimizer(renamed, "adamw", 0.0))
