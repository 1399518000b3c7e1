"""A run folder must load in plain PEFT, tell nothing of the person, and never cost anybody a file that is not ours."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest
import torch
from peft import LoraConfig, PeftModel, get_peft_model, get_peft_model_state_dict
from safetensors import SafetensorError
from transformers import LlamaConfig, LlamaForCausalLM

from pocketft.errors import AdapterError, StorageError, UsageError
from pocketft.training.run_folder import RunFolder, RunInfo, is_run_folder, read_info
from tests.training.toy_run import BASE

INFO = RunInfo(base=BASE)


def made(path: Path) -> Path:
    folder = RunFolder(path)
    folder.start(INFO, "model: {}\n").close()
    (path / "checkpoints" / "checkpoint-3").mkdir(parents=True)
    return path


def contents(path: Path) -> set[str]:
    return {file.relative_to(path).as_posix() for file in path.rglob("*")}


def test_nothing_is_touched_by_the_check(tmp_path: Path) -> None:
    RunFolder(tmp_path / "new").check(resume=False, force=False)
    assert not (tmp_path / "new").exists()
    RunFolder(tmp_path).check(resume=False, force=False)  # there, but empty
    RunFolder(tmp_path / "new").check(resume=False, force=True)


def test_a_run_is_neither_overwritten_nor_forgotten_by_default(tmp_path: Path) -> None:
    folder = RunFolder(made(tmp_path / "run"))
    with pytest.raises(UsageError, match=r"--resume.*--force"):
        folder.check(resume=False, force=False)
    folder.check(resume=True, force=False)
    folder.check(resume=False, force=True)
    with pytest.raises(UsageError, match="one of the two"):
        folder.check(resume=True, force=True)


def test_there_must_be_something_to_resume(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="nothing to resume"):
        RunFolder(tmp_path / "new").check(resume=True, force=False)


@pytest.mark.parametrize("force", [False, True])
@pytest.mark.parametrize("name", ["letter.txt", "adapter_model.safetensors", "README.md", "pocketft.json", ".hidden"])
def test_a_strangers_folder_is_refused_even_with_force(tmp_path: Path, name: str, force: bool) -> None:
    (tmp_path / name).write_text("mine")
    with pytest.raises(UsageError, match="choose another folder"):
        RunFolder(tmp_path).check(resume=False, force=force)
    assert (tmp_path / name).read_text() == "mine"


def test_a_file_is_no_folder(tmp_path: Path) -> None:
    (tmp_path / "run").write_text("mine")
    with pytest.raises(UsageError, match="is a file"):
        RunFolder(tmp_path / "run").check(resume=False, force=True)


def test_replacing_a_run_removes_ours_and_leaves_what_was_put_beside_it(tmp_path: Path) -> None:
    path = made(tmp_path / "run")
    (path / "log.jsonl").write_text("{}\n")
    (path / "thoughts.md").write_text("mine")
    outside = tmp_path / "outside"
    outside.mkdir()
    (outside / "kept").write_text("mine")
    (path / "link").symlink_to(outside)
    RunFolder(path).start(INFO, "model: {}\n", force=True)
    assert contents(path) - {"link/kept"} == {"pocketft.json", "recipe.yaml", "log.jsonl", "thoughts.md", "link"}
    assert (path / "log.jsonl").read_bytes() == b""
    assert (outside / "kept").read_text() == "mine"


def test_checkpoints_that_are_a_link_are_unlinked_and_not_emptied(tmp_path: Path) -> None:
    path = made(tmp_path / "run")
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    (elsewhere / "kept").write_text("mine")
    (path / "checkpoints" / "checkpoint-3").rmdir()
    (path / "checkpoints").rmdir()
    (path / "checkpoints").symlink_to(elsewhere)
    RunFolder(path).start(INFO, "model: {}\n", force=True)
    assert (elsewhere / "kept").read_text() == "mine"


def test_a_folder_that_cannot_be_written_is_told_before_anything_is_done(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(os, "access", lambda path, mode: False)  # root, in a container, may write anywhere
    with pytest.raises(StorageError, match="choose another --output"):
        RunFolder(tmp_path / "new" / "run").check(resume=False, force=False)


def test_a_full_disk_is_one_line_and_leaves_the_adapter_of_before(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = RunFolder(tmp_path / "run")
    lora = LoraConfig(r=4, lora_alpha=8, target_modules=["q_proj"], task_type="CAUSAL_LM")
    folder.start(INFO, "model: {}\n")
    folder.write_adapter({"base_model.model.x.lora_A.weight": torch.zeros(4, 8)}, lora, INFO)
    before = folder.adapter.read_bytes()

    def full(*arguments: object) -> None:
        raise SafetensorError("Error while serializing: I/O error: No space left on device (os error 28)")

    monkeypatch.setattr("safetensors.torch.save_file", full)
    with pytest.raises(StorageError, match="disk is full"):
        folder.write_adapter({"base_model.model.x.lora_A.weight": torch.ones(4, 8)}, lora, INFO)
    assert folder.adapter.read_bytes() == before
    assert not [file for file in folder.path.iterdir() if file.name.startswith(".")]


def test_plain_peft_loads_the_adapter_and_computes_the_same(tmp_path: Path) -> None:
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=64, hidden_size=32, intermediate_size=48, num_hidden_layers=2, num_attention_heads=4
    )
    base = LlamaForCausalLM(config).eval()
    plain = {name: tensor.clone() for name, tensor in base.state_dict().items()}
    lora = LoraConfig(r=4, lora_alpha=8, target_modules="all-linear", use_rslora=True, task_type="CAUSAL_LM")
    lora.base_model_name_or_path = "/home/ana/models/llama"
    model = get_peft_model(base, lora).eval()
    for name, parameter in model.named_parameters():
        if "lora_B" in name:
            parameter.data.normal_(std=0.1)
    ids = torch.randint(64, (1, 9))
    expected = model(ids).logits

    folder = RunFolder(tmp_path / "run")
    folder.start(INFO, "model: {}\n")
    folder.write_adapter(get_peft_model_state_dict(model), model.peft_config["default"], INFO)
    again = LlamaForCausalLM(config)
    again.load_state_dict(plain)
    loaded = PeftModel.from_pretrained(again, str(tmp_path / "run")).eval()
    assert torch.equal(loaded(ids).logits, expected)

    saved = json.loads((tmp_path / "run" / "adapter_config.json").read_text())
    assert saved["base_model_name_or_path"] == "toy"
    assert saved["target_modules"] == sorted(saved["target_modules"])
    for file in (tmp_path / "run").iterdir():
        assert b"/home" not in file.read_bytes() and str(tmp_path).encode() not in file.read_bytes(), file


def test_the_card_names_base_licence_and_measure(tmp_path: Path) -> None:
    folder = RunFolder(tmp_path / "run")
    info = RunInfo(
        base={**BASE, "name": "owner/model", "licence": "Apache-2.0"},
        tokens=12_345,
        steps=40,
        metrics={"loss": 2.0, "eval_loss": 2.1, "base_eval_loss": 2.5},
    )
    lora = LoraConfig(r=4, lora_alpha=8, target_modules=["q_proj"], task_type="CAUSAL_LM")
    folder.write_adapter({"base_model.model.x.lora_A.weight": torch.zeros(4, 8)}, lora, info)
    card = (tmp_path / "run" / "README.md").read_text()
    for expected in ("base_model: owner/model", "Apache-2.0", "12,345", "2.1000", "2.5000", "library_name: peft"):
        assert expected in card


def test_a_damaged_description_is_told_with_what_to_do(tmp_path: Path) -> None:
    with pytest.raises(AdapterError, match="no pocketft run"):
        read_info(tmp_path)
    (tmp_path / "pocketft.json").write_text('{"format": ')
    with pytest.raises(AdapterError, match="cannot be read"):
        read_info(tmp_path)
    (tmp_path / "pocketft.json").write_text('{"format": 99}')
    with pytest.raises(AdapterError, match="update pocketft"):
        read_info(tmp_path)
    assert not is_run_folder(tmp_path)


def test_half_a_first_write_is_no_strangers_file(tmp_path: Path) -> None:
    (tmp_path / ".pocketft.json.a1b2c3d4.tmp").write_text('{"form')
    folder = RunFolder(tmp_path)
    folder.check(resume=False, force=False)
    folder.start(INFO, "model: {}\n")
    assert contents(tmp_path) == {"pocketft.json", "recipe.yaml", "log.jsonl"}


def test_of_two_that_replace_a_run_at_once_the_second_touches_nothing(tmp_path: Path) -> None:
    pytest.importorskip("fcntl")
    path = made(tmp_path / "run")
    with RunFolder(path).start(INFO, "model: first\n", force=True) as log:
        log.write({"event": "step", "step": 1})
        (path / "checkpoints" / "checkpoint-1").mkdir(parents=True)
        before = contents(path)
        with pytest.raises(UsageError, match="another pocketft"):
            RunFolder(path).start(INFO, "model: second\n", force=True)
        assert contents(path) == before
        assert (path / "recipe.yaml").read_text() == "model: first\n"
        assert (path / "log.jsonl").read_text().count("\n") == 1
    RunFolder(path).start(INFO, "model: second\n", force=True)
    assert (path / "recipe.yaml").read_text() == "model: second\n"


def test_a_run_that_came_between_check_and_start_is_not_wiped(tmp_path: Path) -> None:
    folder = RunFolder(tmp_path / "run")
    folder.check(resume=False, force=False)
    before = contents(made(tmp_path / "run"))
    with pytest.raises(UsageError, match=r"--resume.*--force"):
        folder.start(INFO, "model: {}\n")
    assert contents(tmp_path / "run") == before


def test_a_lock_without_a_run_is_no_strangers_file(tmp_path: Path) -> None:
    (tmp_path / "log.jsonl").touch()
    RunFolder(tmp_path).check(resume=False, force=False)
    (tmp_path / "log.jsonl").write_text("mine")
    with pytest.raises(UsageError, match="choose another folder"):
        RunFolder(tmp_path).check(resume=False, force=True)
