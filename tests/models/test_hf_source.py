"""Safetensors folders: values, quantization against bitsandbytes, and what is refused."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import bitsandbytes.functional as bnb
import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import AutoModelForCausalLM

from pocketft.errors import ModelError
from pocketft.models import hf_source
from pocketft.models.hf_source import HubName, download, parse_hub_name, weight_files
from tests.models.in_process import prepared_store, values
from tests.tiny_models import FAMILIES, save_tiny_folder, tiny_config


def parameters(folder: Path) -> dict[str, torch.Tensor]:
    return dict(AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32).named_parameters())


@pytest.mark.parametrize("family", FAMILIES)
def test_bf16_weights_are_the_files_own(tmp_path: Path, family: str) -> None:
    config = tiny_config(family, tied=family != "llama")
    folder = save_tiny_folder(tmp_path / "m", config)
    store, events = prepared_store(folder, "bf16")
    expected = parameters(folder)
    got = values(store)
    assert got.keys() == expected.keys()
    for name, value in got.items():
        assert torch.equal(value, expected[name]), name
    assert [event["event"] for event in events if event["event"] != "progress"] == []


def test_several_weight_files_are_one_model(tmp_path: Path) -> None:
    folder = save_tiny_folder(tmp_path / "m", max_shard_size="50KB")
    assert len(weight_files(folder)) > 1
    got, expected = values(prepared_store(folder, "bf16")[0]), parameters(folder)
    assert all(torch.equal(got[name], value) for name, value in expected.items())


def test_float32_vectors_keep_their_values_and_matrices_become_bf16(tmp_path: Path) -> None:
    folder = save_tiny_folder(tmp_path / "m", tiny_config("qwen2"), dtype=torch.float32)
    store, _ = prepared_store(folder, "bf16")
    for name, value in parameters(folder).items():
        expected = value if value.dim() == 1 else value.bfloat16().float()
        assert torch.equal(values(store)[name], expected), name


def test_nf4_equals_bitsandbytes_and_leaves_embedding_and_head_to_int8(tmp_path: Path) -> None:
    folder = save_tiny_folder(tmp_path / "m", tiny_config("llama", tied=False))
    store, _ = prepared_store(folder, "nf4")
    kinds = {t.name: t.kind for block in store.block_names() for t in store.block_spec(block).tensors}
    assert kinds["model.embed_tokens.weight"] == kinds["lm_head.weight"] == "int8"
    got, expected = values(store), parameters(folder)
    for name in (name for name, kind in kinds.items() if kind == "nf4"):
        codes, state = bnb.quantize_4bit(expected[name].data, blocksize=64, quant_type="nf4")
        assert torch.equal(got[name], bnb.dequantize_4bit(codes, state)), name
    assert sum(kind == "nf4" for kind in kinds.values()) == 14


def test_int8_rows_are_within_half_a_step(tmp_path: Path) -> None:
    folder = save_tiny_folder(tmp_path / "m")
    store, _ = prepared_store(folder, "int8")
    got, expected = values(store), parameters(folder)
    for name, value in expected.items():
        if value.dim() == 2:
            step = value.abs().amax(1, keepdim=True) / 127
            assert ((got[name] - value).abs() <= step * 0.5001).all()


def test_a_row_of_zeros_stays_zero_in_every_quantization(tmp_path: Path) -> None:
    folder = save_tiny_folder(tmp_path / "m")
    path = folder / "model.safetensors"
    tensors = load_file(path)
    name = "model.layers.0.mlp.up_proj.weight"
    tensors[name][3] = 0
    save_file(tensors, path, {"format": "pt"})
    for quantization in ("bf16", "int8", "nf4"):
        assert values(prepared_store(folder, quantization)[0])[name][3].abs().sum() == 0


def test_a_text_model_inside_a_larger_one_is_found_by_its_names(tmp_path: Path) -> None:
    folder = save_tiny_folder(tmp_path / "m")
    expected = parameters(folder)
    path = folder / "model.safetensors"
    tensors = {f"language_model.{name}": value for name, value in load_file(path).items()}
    save_file({**tensors, "vision.weight": torch.zeros(4, 4)}, path, {"format": "pt"})
    got = values(prepared_store(folder, "bf16")[0])
    assert all(torch.equal(got[name], value) for name, value in expected.items())


def refused(folder: Path) -> str:
    with pytest.raises(ModelError) as caught:
        prepared_store(folder, "bf16")
    assert "\n" not in str(caught.value)
    return str(caught.value)


def test_pickle_weights_are_never_loaded(tmp_path: Path) -> None:
    folder = save_tiny_folder(tmp_path / "m")
    (folder / "model.safetensors").rename(folder / "pytorch_model.bin")
    assert "pickle" in refused(folder) and "save_pretrained" in refused(folder)


def test_a_missing_or_truncated_file_is_named(tmp_path: Path) -> None:
    folder = save_tiny_folder(tmp_path / "m", max_shard_size="50KB")
    shard = weight_files(folder)[1]
    data = shard.read_bytes()
    shard.write_bytes(data[:-10])
    assert shard.name in refused(folder) and "truncated" in refused(folder)
    shard.write_bytes((2**62).to_bytes(8, "little") + data[8:])
    assert shard.name in refused(folder)
    shard.unlink()
    assert shard.name in refused(folder)


def test_an_index_cannot_point_outside_the_folder(tmp_path: Path) -> None:
    folder = save_tiny_folder(tmp_path / "m")
    (folder / "model.safetensors").rename(tmp_path / "elsewhere.safetensors")
    (folder / "model.safetensors.index.json").write_text('{"weight_map": {"a": "../elsewhere.safetensors"}}')
    assert "elsewhere" in refused(folder)


def test_folders_of_other_kinds_are_told_apart(tmp_path: Path) -> None:
    folder = tmp_path / "m"
    folder.mkdir()
    assert "config.json" in refused(folder)
    (folder / "adapter_config.json").write_text("{}")
    assert "adapter" in refused(folder)
    (folder / "config.json").write_text('{"model_type": "llama"}')
    assert "no .safetensors" in refused(folder)


def test_weights_already_quantized_elsewhere_are_refused(tmp_path: Path) -> None:
    config = tiny_config("llama")
    folder = save_tiny_folder(tmp_path / "m", config)
    config.quantization_config = {"quant_method": "gptq", "bits": 4}
    config.save_pretrained(folder)
    assert "quantized" in refused(folder)


def test_a_model_without_a_tokenizer_is_refused(tmp_path: Path) -> None:
    folder = save_tiny_folder(tmp_path / "m")
    (folder / "tokenizer.json").unlink()
    (folder / "tokenizer_config.json").unlink()
    assert "tokenizer" in refused(folder)


@pytest.mark.parametrize(
    "text, expected",
    [
        ("hf:a/b", HubName("a/b", None, None)),
        ("hf:a/b@v1", HubName("a/b", None, "v1")),
        ("hf:a/b/c/d.gguf", HubName("a/b", "c/d.gguf", None)),
        ("hf:a/b/d.gguf@abc", HubName("a/b", "d.gguf", "abc")),
    ],
)
def test_hub_names(text: str, expected: HubName) -> None:
    assert parse_hub_name(text) == expected


@pytest.mark.parametrize("text", ["hf:", "hf:a", "hf:a/", "hf:/b", "hf:a/b/c", "hf:a//b.gguf"])
def test_broken_hub_names_are_refused(text: str) -> None:
    with pytest.raises(ModelError, match="hf:owner/name"):
        parse_hub_name(text)


def test_offline_says_what_is_missing_and_how_to_get_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import huggingface_hub.constants as constants

    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "hub"))
    for name in (HubName("owner/name", None, None), HubName("owner/name", "m.gguf", None)):
        with pytest.raises(ModelError) as caught:
            download(name)
        message = str(caught.value)
        assert "\n" not in message and "HF_HUB_OFFLINE" in message and "hf download owner/name" in message


def test_a_hub_repository_is_prepared_from_its_snapshot(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    snapshot = save_tiny_folder(tmp_path / "hub" / "snapshots" / "abc123")
    (snapshot / "README.md").write_text("---\nlicense: mit\n---\n# tiny\n")
    asked: list[Any] = []

    def snapshot_download(repository: str, *, revision: str | None, allow_patterns: list[str]) -> str:
        asked.append((repository, revision))
        assert not any("bin" in pattern or "py" in pattern for pattern in allow_patterns)
        return str(snapshot)

    monkeypatch.setattr("huggingface_hub.snapshot_download", snapshot_download)
    store, events = prepared_store(Path("hf:owner/tiny@main"), "bf16")
    assert asked == [("owner/tiny", "main")]
    assert (store.info["revision"], store.info["licence"], store.info["name"]) == (
        "abc123",
        "mit",
        "hf:owner/tiny@main",
    )
    assert any("hub" in event["message"] for event in events if event["event"] == "notice")
    assert hf_source.weight_files(snapshot)
