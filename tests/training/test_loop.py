"""The loop must train, keep the best, stop for every reason it has, and go on as if it had never stopped."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from pocketft.engine.batch import MicroBatch
from pocketft.errors import CheckpointError, Interrupted
from pocketft.training.checkpoint import newest_checkpoint
from tests.training.kept_log import read_log
from tests.training.toy import ToyModel, toy_data
from tests.training.toy_run import BASE, ToyRun, told

STEPS = 14  # 26 rows, 4 a step, 2 epochs


@pytest.fixture(scope="module")
def reference(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run that nobody disturbed."""
    path = tmp_path_factory.mktemp("undisturbed") / "run"
    ToyRun(path).run()
    return path


def steps_of(path: Path) -> list[dict[str, Any]]:
    return [event for event in read_log(path / "log.jsonl") if event["event"] == "step"]


def said(path: Path) -> list[dict[str, Any]]:
    """The log but for checkpoints: a disturbed run has more of them."""
    return [event for event in told(read_log(path / "log.jsonl")) if event["event"] != "checkpoint"]


def assert_same_run(path: Path, reference: Path) -> None:
    assert said(path) == said(reference)
    for file in ("adapter_model.safetensors", "adapter_config.json", "README.md", "pocketft.json", "recipe.yaml"):
        assert (path / file).read_bytes() == (reference / file).read_bytes(), file


def test_it_learns_and_says_so(reference: Path) -> None:
    info = json.loads((reference / "pocketft.json").read_text())
    assert info["finished"] and info["steps"] == STEPS
    assert info["metrics"]["eval_loss"] < info["metrics"]["base_eval_loss"]
    steps = steps_of(reference)
    assert [event["step"] for event in steps] == list(range(1, STEPS + 1))
    assert steps[-1]["tokens"] == 2 * int(toy_data().train.row_lengths.sum())
    assert info["examples"] == 52
    assert set(steps[0]) == {
        "event", "step", "steps", "epoch", "loss", "lr", "grad_norm", "tokens", "tokens_per_s", "rss", "peak", "cap",
        "elapsed", "remaining",
    }  # fmt: skip


def test_it_evaluates_on_the_beat_and_at_the_end_and_saves_likewise(reference: Path) -> None:
    events = read_log(reference / "log.jsonl")
    assert [event["step"] for event in events if event["event"] == "eval"] == [0, 3, 6, 9, 12, 14]
    assert [event["step"] for event in events if event["event"] == "checkpoint"] == [4, 8, 12, 14]
    assert sorted(path.name for path in (reference / "checkpoints").iterdir()) == ["checkpoint-12", "checkpoint-14"]


def test_the_loss_is_that_of_one_batch_however_rows_are_grouped(tmp_path: Path) -> None:
    runs = []
    for micro_batch in (1, 4):
        run = ToyRun(tmp_path / str(micro_batch), model=ToyModel(micro_batch, dropout=0.0))
        run.run()
        runs.append([event["loss"] for event in steps_of(run.folder.path)])
    assert runs[0] == pytest.approx(runs[1], rel=1e-5)


@pytest.mark.parametrize("step", [0, 2, 3, 8, 13])
def test_after_a_signal_in_any_step_a_resumed_run_is_the_undisturbed_one(
    tmp_path: Path, reference: Path, step: int
) -> None:
    first = ToyRun(tmp_path / "run")
    first.model.on_step = lambda now: setattr(first.stop, "requested", now == step)
    with pytest.raises(Interrupted, match=f"after step {step + 1} of {STEPS}.*--resume"):
        first.run()
    assert (tmp_path / "run" / "adapter_model.safetensors").exists()
    ToyRun(tmp_path / "run", resume=True).run()
    assert_same_run(tmp_path / "run", reference)


@pytest.mark.parametrize("evaluation", [1, 2, 5])
def test_after_a_signal_in_an_evaluation_too(tmp_path: Path, reference: Path, evaluation: int) -> None:
    first = ToyRun(tmp_path / "run")
    calls_each = 2  # 6 held-out rows, 4 at a time
    first.model.on_evaluation = lambda number: setattr(first.stop, "requested", number == evaluation * calls_each)
    with pytest.raises(Interrupted):
        first.run()
    ToyRun(tmp_path / "run", resume=True).run()
    assert_same_run(tmp_path / "run", reference)


def test_a_signal_before_the_first_step_leaves_a_run_that_starts_anew(tmp_path: Path, reference: Path) -> None:
    first = ToyRun(tmp_path / "run")
    first.model.on_evaluation = lambda number: setattr(first.stop, "requested", True)
    with pytest.raises(Interrupted, match="nothing was trained"):
        first.run()
    second = ToyRun(tmp_path / "run", resume=True)
    assert any("from the beginning" in event.get("message", "") for event in second.events)
    second.run()
    assert_same_run(tmp_path / "run", reference)


@pytest.mark.parametrize("step", [5, 7, 13])
def test_an_end_without_warning_between_checkpoints_costs_only_the_steps_since(
    tmp_path: Path, reference: Path, step: int
) -> None:
    class Gone(Exception):
        pass

    def vanish(now: int) -> None:
        if now == step:
            raise Gone

    first = ToyRun(tmp_path / "run")
    first.model.on_step = vanish
    with pytest.raises(Gone):
        first.run()
    second = ToyRun(tmp_path / "run", resume=True)
    assert second.loop.state.step == step // 4 * 4
    second.run()
    assert_same_run(tmp_path / "run", reference)


def test_a_damaged_newest_checkpoint_costs_one_interval(tmp_path: Path, reference: Path) -> None:
    first = ToyRun(tmp_path / "run")
    first.model.on_step = lambda now: setattr(first.stop, "requested", now == 9)
    with pytest.raises(Interrupted):
        first.run()
    (tmp_path / "run" / "checkpoints" / "checkpoint-10" / "optimizer.safetensors").write_bytes(b"")
    second = ToyRun(tmp_path / "run", resume=True)
    assert second.loop.state.step == 8
    assert "checkpoint-10" in second.events[0]["message"]
    second.run()
    assert_same_run(tmp_path / "run", reference)


def test_a_run_taken_further_in_stages_is_the_undisturbed_one(tmp_path: Path, reference: Path) -> None:
    ToyRun(tmp_path / "run", max_steps=5).run()
    assert json.loads((tmp_path / "run" / "pocketft.json").read_text())["metrics"]["eval_loss"] is not None
    ToyRun(tmp_path / "run", resume=True, max_steps=6).run()
    ToyRun(tmp_path / "run", resume=True).run()
    staged, expected = said(tmp_path / "run"), said(reference)
    for event in [*staged, *expected]:
        event.pop("steps", None)  # a stage has fewer
    assert staged == expected
    weights = (reference / "adapter_model.safetensors").read_bytes()
    assert (tmp_path / "run" / "adapter_model.safetensors").read_bytes() == weights


def test_resuming_a_finished_run_changes_nothing(tmp_path: Path, reference: Path) -> None:
    ToyRun(tmp_path / "run").run()
    again = ToyRun(tmp_path / "run", resume=True)
    again.run()
    assert again.model.steps == 0
    assert_same_run(tmp_path / "run", reference)


@pytest.mark.parametrize(
    ("override", "difference"),
    [
        ("training.learning_rate=0.03", "training.learning_rate was 0.02, now 0.03"),
        ("lora.r=4", "lora.r was 8, now 4"),
        ("training.seed=1", "training.seed was 0, now 1"),
        ("data.max_seq_length=256", "data.max_seq_length was 512, now 256"),
    ],
)
def test_another_recipe_is_refused_with_the_difference(tmp_path: Path, override: str, difference: str) -> None:
    ToyRun(tmp_path / "run", max_steps=4).run()
    with pytest.raises(CheckpointError, match=difference):
        ToyRun(tmp_path / "run", override, resume=True)


def test_another_base_of_the_same_name_is_refused(tmp_path: Path) -> None:
    ToyRun(tmp_path / "run", max_steps=4).run()
    with pytest.raises(CheckpointError, match=r"base model was aaaaaaaaaaaa…, now ffffffffffff…"):
        ToyRun(tmp_path / "run", resume=True, base={**BASE, "artifact_sha256": "f" * 64})


def test_another_memory_cap_is_not_another_run(tmp_path: Path) -> None:
    ToyRun(tmp_path / "run", max_steps=4).run()
    assert ToyRun(tmp_path / "run", "memory.max=2GB", resume=True).loop.state.step == 4


class Scripted(ToyModel):
    """Its held-out losses are given: one an evaluation."""

    def __init__(self, losses: list[float]) -> None:
        super().__init__()
        self.losses = losses

    def eval_loss(self, micro_batches: Sequence[MicroBatch]) -> tuple[float, int]:
        loss = self.losses[self.evaluations // 2]  # two calls an evaluation
        tokens = super().eval_loss(micro_batches)[1]
        return loss * tokens, tokens


def test_the_best_adapter_is_kept_and_training_stops_when_it_no_longer_pays(tmp_path: Path) -> None:
    model = Scripted([2.0, 1.5, 1.4, 1.6, 1.4, 1.0])
    run = ToyRun(tmp_path / "run", "training.epochs=6", "eval.early_stopping_patience=2", model=model)
    states = {}
    model.on_step = lambda now: states.update({now: model.adapter_state()})
    state = run.run()
    assert (state.step, state.best_step) == (12, 6)  # evaluated every 3; 1.4 again is no gain
    kept = load_file(tmp_path / "run" / "adapter_model.safetensors")
    assert all(torch.equal(kept[name], tensor) for name, tensor in states[6].items())
    info = json.loads((tmp_path / "run" / "pocketft.json").read_text())
    assert (info["kept_step"], info["steps"], info["metrics"]["eval_loss"]) == (6, 12, pytest.approx(1.4))
    resumed = ToyRun(tmp_path / "run", "training.epochs=6", "eval.early_stopping_patience=2", resume=True)
    assert resumed.run().step == 12


def test_patience_0_never_stops_early_and_an_adapter_worse_than_the_base_is_named(tmp_path: Path) -> None:
    run = ToyRun(tmp_path / "run", model=Scripted([1.0, 2.0, 3.0, 4.0, 5.0, 6.0]))
    assert run.run().step == STEPS
    messages = [event["message"] for event in run.events if event["event"] == "notice"]
    assert any("no better than the base" in message for message in messages)


def test_without_held_out_text_the_last_adapter_is_kept(tmp_path: Path) -> None:
    run = ToyRun(tmp_path / "run", data=toy_data(held_out=0))
    state = run.run()
    assert state.base_eval_loss is None and not [event for event in run.events if event["event"] == "eval"]
    kept = load_file(tmp_path / "run" / "adapter_model.safetensors")
    assert all(torch.equal(kept[name], tensor) for name, tensor in run.model.adapter_state().items())


def test_no_evaluation_steps_means_start_and_end(tmp_path: Path) -> None:
    run = ToyRun(tmp_path / "run", "eval.steps=0")
    run.run()
    assert [event["step"] for event in run.events if event["event"] == "eval"] == [0, STEPS]


def test_a_limit_in_time_trains_at_least_one_step_and_keeps_what_it_has(tmp_path: Path) -> None:
    run = ToyRun(tmp_path / "run", deadline=0.0)
    state = run.run()
    assert state.step == 1
    assert newest_checkpoint(run.folder.checkpoints, run.events.append) is not None
    assert (tmp_path / "run" / "adapter_model.safetensors").exists()
    assert any("--max-time" in event.get("message", "") for event in run.events)


def test_no_more_rows_are_evaluated_together_than_the_plan_counts(tmp_path: Path) -> None:
    """A plan counts on no more rows in a step than there are to train on."""
    run = ToyRun(tmp_path / "run", data=toy_data(rows=3, held_out=6))
    calls: list[int] = []
    score = run.model.eval_loss

    def counted(batches: Sequence[MicroBatch]) -> tuple[float, int]:
        calls.append(sum(len(batch.input_ids) for batch in batches))
        return score(batches)

    run.model.eval_loss = counted  # type: ignore[method-assign]
    run.run()
    assert set(calls) == {3}
