"""Whatever ends a run on its way, what is done is saved, whole, and the next one goes on as if nothing had been."""

from __future__ import annotations

import weakref
from pathlib import Path
from typing import Any

import pytest
import torch

from pocketft.errors import MemoryCapError, ModelError, PocketftError, StorageError
from pocketft.training import loop
from pocketft.training.checkpoint import newest_checkpoint, save_checkpoint
from tests.training.test_loop import assert_same_run
from tests.training.toy_run import ToyRun


@pytest.fixture(scope="module")
def reference(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run that nobody disturbed."""
    path = tmp_path_factory.mktemp("undisturbed") / "run"
    ToyRun(path).run()
    return path


def test_the_guard_stops_the_run_with_its_last_whole_step_saved(tmp_path: Path, reference: Path) -> None:
    run = ToyRun(tmp_path / "run")
    run.model.fail_at = 6
    with pytest.raises(MemoryCapError, match="would cross the cap"):
        run.run()
    assert run.events[-1] == {"event": "checkpoint", "step": 6, "path": "checkpoints/checkpoint-6"}
    ToyRun(tmp_path / "run", resume=True).run()
    assert_same_run(tmp_path / "run", reference)


def test_the_guards_word_in_an_evaluation_saves_too(tmp_path: Path, reference: Path) -> None:
    def refuse(number: int) -> None:
        if number == 4:
            raise MemoryCapError("resident memory would cross the cap")

    run = ToyRun(tmp_path / "run")
    run.model.on_evaluation = refuse
    with pytest.raises(MemoryCapError):
        run.run()
    assert run.events[-1] == {"event": "checkpoint", "step": 6, "path": "checkpoints/checkpoint-6"}
    ToyRun(tmp_path / "run", resume=True).run()
    assert_same_run(tmp_path / "run", reference)


@pytest.mark.parametrize("evaluation", [2, 3])
def test_a_checkpoint_names_no_adapter_that_could_not_be_written(
    tmp_path: Path, reference: Path, monkeypatch: pytest.MonkeyPatch, evaluation: int
) -> None:
    """Memory is refused while the best adapter is written: for the first time, and over an older one."""
    run = ToyRun(tmp_path / "run")
    written = run.folder.write_adapter

    def refused(*arguments: Any) -> None:
        if run.loop.state.step == 3 * (evaluation - 1):
            raise MemoryError
        written(*arguments)

    monkeypatch.setattr(run.folder, "write_adapter", refused)
    with pytest.raises(MemoryCapError):
        run.run()
    found = newest_checkpoint(run.folder.checkpoints, run.events.append)
    assert found is not None and found.state.step == 3 * (evaluation - 1)
    assert found.state.best_step == (-1 if evaluation == 2 else 3)
    ToyRun(tmp_path / "run", resume=True).run()
    assert_same_run(tmp_path / "run", reference)


def test_no_checkpoint_is_made_of_half_an_update(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run = ToyRun(tmp_path / "run")

    def half(*arguments: object) -> float:
        raise MemoryError

    run.model.on_step = lambda now: now == 5 and monkeypatch.setattr(loop, "apply_step", half)
    with pytest.raises(MemoryError):
        run.run()
    found = newest_checkpoint(run.folder.checkpoints, run.events.append)
    assert found is not None and found.state.step == 4


@pytest.mark.parametrize("error", [MemoryError(), RuntimeError("DefaultCPUAllocator: can't allocate memory")])
def test_refused_memory_is_told_like_the_guards_word(tmp_path: Path, error: Exception) -> None:
    def refuse(now: int) -> None:
        if now == 2:
            raise error

    run = ToyRun(tmp_path / "run")
    run.model.on_step = refuse
    with pytest.raises(
        MemoryCapError, match=r"out of memory; step 2 is saved, continue .*--resume and a larger --memory"
    ):
        run.run()


def test_advice_before_the_first_step_is_what_a_new_run_can_follow(tmp_path: Path) -> None:
    def refuse(now: int) -> None:
        raise MemoryError

    run = ToyRun(tmp_path / "run")
    run.model.on_step = refuse
    with pytest.raises(MemoryCapError, match=r"^out of memory; give a larger --memory or a smaller .*max_seq_length$"):
        run.run()


def test_nothing_of_the_failed_step_is_in_memory_while_it_is_saved(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    alive: list[weakref.ref[torch.Tensor]] = []
    when_saved = []

    def refuse(now: int) -> None:
        held = torch.zeros(8)
        alive.append(weakref.ref(held))
        if now == 6:
            raise MemoryError

    def save(*arguments: Any) -> Path:
        when_saved.append([one() for one in alive if one() is not None])
        return save_checkpoint(*arguments)

    run = ToyRun(tmp_path / "run")
    run.model.on_step = refuse
    monkeypatch.setattr(loop, "save_checkpoint", save)
    with pytest.raises(MemoryCapError):
        run.run()
    assert when_saved == [[], []]  # on the beat, and after the failure


@pytest.mark.parametrize("error", [StorageError("the disk is full"), ModelError("block 3 is cut short")])
def test_after_any_failure_that_is_told_the_last_whole_step_is_saved(
    tmp_path: Path, reference: Path, error: PocketftError
) -> None:
    def fail(now: int) -> None:
        if now == 6:
            raise error

    run = ToyRun(tmp_path / "run")
    run.model.on_step = fail
    with pytest.raises(type(error), match=rf"^{error}; step 6 is saved, continue from it with --resume$"):
        run.run()
    ToyRun(tmp_path / "run", resume=True).run()
    assert_same_run(tmp_path / "run", reference)


def test_where_saving_fails_too_the_older_checkpoint_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*arguments: Any) -> Path:
        raise StorageError("the disk is full")

    run = ToyRun(tmp_path / "run")
    run.model.fail_at = 6
    run.model.on_step = lambda now: now == 6 and monkeypatch.setattr(loop, "save_checkpoint", full)
    with pytest.raises(MemoryCapError, match="would cross the cap; step 4 is saved"):
        run.run()
    assert "the disk is full" in run.events[-1]["message"]


def test_other_errors_are_not_taken_for_a_lack_of_memory(tmp_path: Path) -> None:
    def fail(now: int) -> None:
        raise RuntimeError("shapes do not match")

    run = ToyRun(tmp_path / "run")
    run.model.on_step = fail
    with pytest.raises(RuntimeError, match="shapes"):
        run.run()


def test_a_diverged_run_is_stopped_and_its_checkpoint_is_sound(tmp_path: Path) -> None:
    def break_it(now: int) -> None:
        if now == 5:
            run.model.head[0, 0] = float("nan")

    run = ToyRun(tmp_path / "run")
    run.model.on_step = break_it
    with pytest.raises(PocketftError, match=r"diverged at step 6.*learning_rate"):
        run.run()
    found = newest_checkpoint(run.folder.checkpoints, run.events.append)
    assert found is not None and found.state.step == 4
