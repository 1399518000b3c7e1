"""From a request to an adapter on the real engine: what is promised of results, resuming, plans and privacy."""

from __future__ import annotations

import json
import math
import os
import shutil
import signal
from dataclasses import replace
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
import torch
from peft import PeftModel
from transformers import AutoModelForCausalLM

from pocketft.data.batching import collate
from pocketft.data.layout import DataSettings
from pocketft.errors import AdapterError, CapTooSmall, CheckpointError, Interrupted, MemoryCapError, UsageError
from pocketft.memory import guard
from pocketft.models.block_store import BlockStore
from pocketft.recipe import load_recipe
from pocketft.training.evaluate import read_adapter, run_recipe
from pocketft.training.preparation import open_base, prepare_text
from pocketft.training.run_folder import read_info
from pocketft.training.scoring import factors, score_factors
from pocketft.training.session import TrainRequest, TrainResult, evaluate, plan, train
from tests.training.conftest import World
from tests.training.kept_log import read_log

STEPS = 8
CAP = 4 << 30


def request(world: World, output: Path, *overrides: str, **changes: Any) -> TrainRequest:
    recipe = load_recipe(
        None,
        [
            f"model.name={world.base}",
            "data.max_seq_length=64",
            "data.val_split=0.2",
            "training.epochs=2",
            "training.learning_rate=0.01",
            "training.warmup_steps=2",
            "training.save_steps=3",
            "eval.steps=3",
            "lora.dropout=0.1",
            *overrides,
        ],
    )
    return replace(TrainRequest((world.text,), recipe, output, max_steps=STEPS, device="cpu"), **changes)


def quiet(event: dict[str, Any]) -> None:
    return None


@pytest.fixture(scope="module")
def done(world: World, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, TrainResult]:
    output = tmp_path_factory.mktemp("done") / "run"
    return output, train(request(world, output), quiet)


def losses(run: Path) -> list[tuple[Any, ...]]:
    events = [event for event in read_log(run / "log.jsonl") if event["event"] in ("step", "eval")]
    return [(e["event"], e["step"], e.get("loss"), e.get("grad_norm"), e.get("eval_loss")) for e in events]


def assert_same(run: Path, other: Path) -> None:
    assert losses(run) == losses(other)
    name = "adapter_model.safetensors"
    assert (run / name).read_bytes() == (other / name).read_bytes()


def test_the_result_is_what_the_command_promises(done: tuple[Path, TrainResult]) -> None:
    output, result = done
    assert result.adapter == str(output)
    assert result.steps == STEPS and result.tokens > 0 and result.tokens_per_s > 0
    assert result.eval_loss is not None and result.base_eval_loss is not None
    assert result.eval_loss < result.base_eval_loss
    assert 0 < result.predicted_peak_bytes <= result.cap_bytes and result.peak_bytes > 0


def test_the_plan_comes_before_any_weight_and_the_end_last(world: World, tmp_path: Path) -> None:
    kinds: list[str] = []
    train(request(world, tmp_path / "run", max_steps=2), lambda event: kinds.append(event["event"]))
    told = [kind for kind in kinds if kind not in ("progress", "notice")]
    assert told[0] == "plan" and told[-1] == "done"


def test_plain_peft_agrees_on_the_held_out_loss(world: World, done: tuple[Path, TrainResult]) -> None:
    output, result = done
    base = open_base(str(world.base), "auto", quiet)
    data = prepare_text((world.text,), base, DataSettings(64, 0.2, True, 0), quiet)
    rows = [data.val.row(index) for index in range(len(data.val))]
    model = AutoModelForCausalLM.from_pretrained(world.base, dtype=torch.float32, attn_implementation="eager")
    model = PeftModel.from_pretrained(model, str(output)).eval()
    total, count = 0.0, 0
    for row in rows:  # one document after the other: position 0 begins each
        batch = collate([row], 0)
        starts = [*(batch.position_ids[0] == 0).nonzero().flatten().tolist(), batch.input_ids.shape[1]]
        for start, stop in pairwise(starts):
            ids, labels = batch.input_ids[:, start:stop], batch.labels[:, start:stop]
            tokens = int((labels[:, 1:] != -100).sum())
            if tokens:
                with torch.no_grad():
                    total += float(model(input_ids=ids, labels=labels).loss) * tokens
                count += tokens
    assert total / count == pytest.approx(result.eval_loss, rel=5e-3)  # bfloat16 against float32


@pytest.mark.parametrize(("number", "at"), [(signal.SIGINT, 1), (signal.SIGTERM, 5)])
def test_after_a_real_signal_a_resumed_run_is_the_undisturbed_one_bit_for_bit(
    world: World, done: tuple[Path, TrainResult], tmp_path: Path, number: signal.Signals, at: int
) -> None:
    def interrupt(event: dict[str, Any]) -> None:
        if event["event"] == "step" and event["step"] == at:
            os.kill(os.getpid(), number)

    with pytest.raises(Interrupted, match="--resume"):
        train(request(world, tmp_path / "run"), interrupt)
    result = train(request(world, tmp_path / "run", resume=True), quiet)
    assert_same(tmp_path / "run", done[0])
    assert result.eval_loss == done[1].eval_loss and result.tokens == done[1].tokens


def test_a_run_taken_further_in_stages_is_the_undisturbed_one(
    world: World, done: tuple[Path, TrainResult], tmp_path: Path
) -> None:
    for steps in (2, 4, STEPS):
        train(request(world, tmp_path / "run", max_steps=steps, resume=steps > 2), quiet)
    assert_same(tmp_path / "run", done[0])


def test_eight_bit_optimizer_states_resume_bit_for_bit_too(world: World, tmp_path: Path) -> None:
    for name, stages in (("whole", (4,)), ("staged", (2, 4))):
        for steps in stages:
            wanted = request(world, tmp_path / name, "training.optimizer=adamw8bit", max_steps=steps)
            train(replace(wanted, resume=(tmp_path / name).exists()), quiet)
    assert_same(tmp_path / "whole", tmp_path / "staged")


def test_what_a_run_is_made_of_may_not_change(world: World, done: tuple[Path, TrainResult], tmp_path: Path) -> None:
    run = tmp_path / "run"
    train(request(world, run, max_steps=2), quiet)
    before = {file: file.read_bytes() for file in run.rglob("*") if file.is_file()}
    with pytest.raises(CheckpointError, match="text was"):
        train(request(world, run, resume=True, data=(world.unseen, world.text)), quiet)
    assert {file: file.read_bytes() for file in run.rglob("*") if file.is_file()} == before


def test_a_plan_reads_no_weight_and_writes_nothing(
    world: World, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*arguments: Any) -> None:
        raise AssertionError("a weight was read")

    open_base(str(world.base), "auto", quiet)  # prepared
    for name in ("read_block", "read_tensors"):
        monkeypatch.setattr(BlockStore, name, refuse)
    made = plan(request(world, tmp_path / "run"), quiet).plan
    assert made.micro_batch >= 1 and made.predicted_peak_bytes <= made.cap_bytes
    assert not (tmp_path / "run").exists()


def test_a_cap_that_nothing_fits_is_refused_before_anything_is_written(world: World, tmp_path: Path) -> None:
    plan(request(world, tmp_path / "run"), quiet)  # what is prepared under that cap would say no first
    with pytest.raises(CapTooSmall, match="--memory"):
        train(request(world, tmp_path / "run", "memory.max=50MB"), quiet)
    assert not (tmp_path / "run").exists()


def test_a_cap_that_the_last_writing_crosses_is_told_though_the_run_is_whole(
    world: World, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def cross(event: dict[str, Any]) -> None:
        if event["event"] == "done":
            monkeypatch.setattr(guard, "peak_rss_bytes", lambda: 1 << 50)

    with pytest.raises(MemoryCapError, match=r"is finished, but .* more than the cap of"):
        train(request(world, tmp_path / "run", max_steps=1), cross)
    assert read_info(tmp_path / "run")["finished"]


@pytest.mark.parametrize("old", [{"cap_bytes": 1 << 30}, {"rise": None}])
def test_a_plan_that_is_made_anew_is_told_in_words_true_of_every_reason(
    world: World, tmp_path: Path, old: dict[str, Any]
) -> None:
    """Another cap, and a plan of a version that did not know of rises by phase."""
    run = tmp_path / "run"
    train(request(world, run, "memory.max=2GB", max_steps=2), quiet)
    state = run / "checkpoints" / "checkpoint-2" / "state.json"
    saved = json.loads(state.read_text())
    saved["plan"] = {name: value for name, value in {**saved["plan"], **old}.items() if value is not None}
    state.write_text(json.dumps(saved))
    events: list[dict[str, Any]] = []
    plan(request(world, run, "memory.max=2GB", resume=True), events.append)
    (said,) = (event["message"] for event in events if "differ in their last digits" in event.get("message", ""))
    assert "this memory cap or this version" in said


def test_targets_that_name_no_layer_are_told(world: World, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="target_modules"):
        train(request(world, tmp_path / "run", "lora.target_modules=[no_such_proj]"), quiet)
    assert not (tmp_path / "run").exists()


def test_nothing_that_may_be_shared_names_this_machine_or_the_text(
    world: World, done: tuple[Path, TrainResult]
) -> None:
    for name in ("README.md", "pocketft.json", "adapter_config.json", "log.jsonl", "adapter_model.safetensors"):
        content = (done[0] / name).read_bytes()
        for secret in (str(world.base.parent), str(done[0]), "harbour", "day 3"):
            assert secret.encode() not in content, (name, secret)
    info = json.loads((done[0] / "pocketft.json").read_text())
    assert info["format"] == 1 and info["kind"] == "lora" and info["parents"] == []
    assert info["base"]["name"] == "tiny" and len(info["base"]["artifact_sha256"]) == 64
    assert {"torch", "pocketft"} <= set(info["versions"]) and info["plan"]["micro_batch"] >= 1


def test_a_run_is_evaluated_on_other_text_and_on_neutral_text(world: World, done: tuple[Path, TrainResult]) -> None:
    result = evaluate(done[0], (world.unseen,), quiet)
    assert result.loss < result.base_loss
    assert result.perplexity == pytest.approx(math.exp(result.loss))
    assert result.reference_base_loss > 0 and result.reference_loss != result.reference_base_loss


def test_an_evaluation_may_have_a_cap_of_its_own(world: World, done: tuple[Path, TrainResult]) -> None:
    planned: list[int] = []

    def report(event: dict[str, Any]) -> None:
        if event["event"] == "plan":
            planned.append(event["cap_bytes"])

    evaluate(done[0], (world.unseen,), report, memory="3GB")
    assert planned == [3 << 30]
    with pytest.raises(CapTooSmall, match="--memory"):
        evaluate(done[0], (world.unseen,), quiet, memory="20MB")
    with pytest.raises(UsageError, match="size"):
        evaluate(done[0], (world.unseen,), quiet, memory="much")


def test_an_adapter_that_is_not_there_yet_is_told(tmp_path: Path, done: tuple[Path, TrainResult]) -> None:
    (tmp_path / "pocketft.json").write_bytes((done[0] / "pocketft.json").read_bytes())
    with pytest.raises(AdapterError, match="no adapter yet"):
        evaluate(tmp_path, (tmp_path,), quiet)


def test_adapters_of_different_ranks_are_scored_over_one_base(
    world: World, done: tuple[Path, TrainResult], tmp_path: Path
) -> None:
    other = tmp_path / "other"
    few = ("lora.r=3", "lora.use_rslora=true", "lora.target_modules=[q_proj,v_proj]", "data.max_seq_length=512")
    train(request(world, other, *few, "training.gradient_accumulation=1", "training.epochs=4"), quiet)
    whole, few_modules = (factors(*read_adapter(run)) for run in (done[0], other))
    ranks = {module: a.shape[0] for module, (a, _) in whole.items()}
    losses = score_factors(str(world.base), "bf16", ranks, [{}, whole, few_modules], (world.unseen,), CAP, quiet)
    scored = dict(zip(("", "all", "few"), losses, strict=True))
    alone = evaluate(other, (world.unseen,), quiet)
    assert abs(alone.loss - alone.base_loss) > 0.02
    assert scored["few"] == pytest.approx(alone.loss, abs=2e-3)
    assert scored[""] == pytest.approx(alone.base_loss, abs=2e-3)
    cut_shorter = evaluate(done[0], (world.unseen,), quiet)  # in rows of 64: what begins a row has less before it
    assert scored["all"] == pytest.approx(cut_shorter.loss, rel=1e-2)


def test_a_run_from_another_device_finds_its_base_by_the_file_itself(
    world: World, done: tuple[Path, TrainResult], tmp_path: Path
) -> None:
    run = tmp_path / "copied"
    shutil.copytree(done[0], run)
    recipe = (run / "recipe.yaml").read_text()
    (run / "recipe.yaml").write_text(recipe.replace(str(world.base), "/somebody/else/tiny"))
    found = run_recipe(run, read_info(run))
    assert found.model.name == str(world.base) and found.lora == load_recipe(done[0] / "recipe.yaml").lora
    (run / "recipe.yaml").unlink()
    assert run_recipe(run, read_info(run)).model.name == str(world.base)
