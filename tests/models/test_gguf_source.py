"""The store of a GGUF holds exactly the weights that transformers' own GGUF loading gives."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

from pocketft.errors import ModelError
from pocketft.models.gguf_file import read_gguf
from tests.models.in_process import prepared_store, values
from tests.tiny_models import write_tiny_gguf


@pytest.mark.parametrize(
    "family, quantization, tied",
    [("llama", "Q4_1", True), ("llama", "Q6_K", False), ("gemma3", "Q8_0", True), ("qwen2", "F16", False)],
)
def test_weights_are_those_transformers_loads(tmp_path: Path, family: str, quantization: str, tied: bool) -> None:
    path = write_tiny_gguf(tmp_path / "tiny.gguf", quantization, family=family, tied=tied)
    store, events = prepared_store(path, "gguf")
    model = AutoModelForCausalLM.from_pretrained(tmp_path, gguf_file=path.name, dtype=torch.float32)
    expected = dict(model.named_parameters())  # a shared head comes once
    got = values(store)
    assert got.keys() == expected.keys()
    for name, value in got.items():
        assert torch.equal(value, expected[name]), name
    assert ("head" in store.block_names()) == (not tied)
    assert not [event for event in events if event.get("level") == "warning"]


def test_blocks_come_in_the_order_of_a_forward_pass(tmp_path: Path) -> None:
    store, _ = prepared_store(write_tiny_gguf(tmp_path / "tiny.gguf", tied=False), "gguf")
    assert list(store.block_names()) == ["embedding", "block.0", "block.1", "norm", "head"]
    kinds = {tensor.name.split(".")[-2]: tensor.kind for tensor in store.block_spec("block.0").tensors}
    assert kinds["q_proj"] == "affine4" and kinds["input_layernorm"] == "f32"


def test_configuration_and_tokenizer_are_kept_so_that_the_gguf_is_parsed_once(tmp_path: Path) -> None:
    path = write_tiny_gguf(tmp_path / "tiny.gguf")
    store, _ = prepared_store(path, "gguf")
    folder = store.folder / "config"
    config = json.loads((folder / "config.json").read_text())
    assert (config["model_type"], config["num_hidden_layers"], config["tie_word_embeddings"]) == ("llama", 2, True)
    ours = AutoTokenizer.from_pretrained(folder)
    theirs = AutoTokenizer.from_pretrained(tmp_path, gguf_file=path.name)
    text = "the band and the Theremin\n ünï 漢"
    assert ours(text).input_ids == theirs(text).input_ids
    assert ours.eos_token == "<eos>" and ours.chat_template == theirs.chat_template
    assert (folder / "generation_config.json").is_file()
    assert store.info["licence"] == "apache-2.0" and store.info["architecture"] == "llama"


@pytest.mark.parametrize("quantization", ["bf16", "int8", "nf4"])
def test_a_second_quantization_is_done_when_asked_for_and_said(tmp_path: Path, quantization: str) -> None:
    path = write_tiny_gguf(tmp_path / "tiny.gguf", "Q8_0")
    own, _ = prepared_store(path, "gguf")
    store, events = prepared_store(path, quantization)
    warnings = [event["message"] for event in events if event.get("level") == "warning"]
    assert len(warnings) == 1 and "second time" in warnings[0]
    tolerance = {"bf16": 0.004, "int8": 0.01, "nf4": 0.2}[quantization]
    expected = values(own)
    for name, value in values(store).items():
        assert (value - expected[name]).norm() <= tolerance * expected[name].norm()


def test_an_architecture_transformers_does_not_know_is_refused_in_one_line(tmp_path: Path) -> None:
    path = write_tiny_gguf(tmp_path / "tiny.gguf")
    data = path.read_bytes()
    path.write_bytes(data.replace(b"\x05\0\0\0\0\0\0\0llama", b"\x05\0\0\0\0\0\0\0lloma", 1))
    with pytest.raises(ModelError) as caught:
        prepared_store(path, "gguf")
    assert "\n" not in str(caught.value) and str(path) in str(caught.value)


def test_a_file_that_lacks_a_tensor_is_refused(tmp_path: Path) -> None:
    path = write_tiny_gguf(tmp_path / "tiny.gguf")
    assert "blk.1.ffn_up.weight" in read_gguf(path).tensors
    path.write_bytes(path.read_bytes().replace(b"blk.1.ffn_up.weight", b"blk.1.ffn_xx.weight"))
    with pytest.raises(ModelError, match=r"lacks 1 of the model's tensors .*layers\.1\.mlp\.up_proj"):
        prepared_store(path, "gguf")
    leftovers = [entry.name for entry in (tmp_path / "cache" / "stores").iterdir() if entry.is_dir()]
    assert leftovers == []
