"""Adapters taken elsewhere: the same numbers in every form, nothing half written, refused where nothing takes it."""

from __future__ import annotations

import errno
import json
import shutil
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import gguf
import numpy as np
import pytest
import torch
from peft import PeftModel
from safetensors.torch import load_file, save_file
from transformers import AutoModelForCausalLM, AutoTokenizer

from pocketft.adapters import export_merged, export_run
from pocketft.adapters.export_names import gguf_names
from pocketft.adapters.export_ollama import choose, parse_version
from pocketft.adapters.export_run import ExportRequest, ExportResult, export
from pocketft.adapters.folder import FolderAdapter
from pocketft.errors import AdapterError, PocketftError, StorageError, UsageError
from pocketft.memory.guard import Guard
from pocketft.models.base_model import load_config, resolve_base
from tests.adapters.build import dense_update
from tests.adapters.export_world import merged_weights, quiet, random_run
from tests.cli.run_cli import Ran, pocketft
from tests.models.in_process import prepared_store, values
from tests.tiny_models import FAMILIES, save_tiny_folder, tiny_config, write_tiny_gguf

__all__ = ["pocketft"]

CAP = 8 << 30
Cli = Callable[..., Ran]


@pytest.fixture(scope="module", autouse=True)
def home(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    with pytest.MonkeyPatch.context() as patch:
        root = tmp_path_factory.mktemp("home")
        patch.setenv("POCKETFT_HOME", str(root / "cache"))
        patch.setenv("HF_HUB_OFFLINE", "1")
        patch.setattr("pocketft.adapters.export_run.installed_version", lambda: None)
        yield root


@pytest.fixture(scope="module")
def llama(home: Path) -> tuple[FolderAdapter, Path]:
    base = write_tiny_gguf(home / "llama.gguf", "Q4_1")
    return random_run(home / "llama-run", base), base


@pytest.fixture(scope="module")
def gemma(home: Path) -> tuple[FolderAdapter, Path]:
    base = write_tiny_gguf(home / "gemma.gguf", "Q4_K", family="gemma3")
    return random_run(home / "gemma-run", base), base


@pytest.fixture(scope="module")
def folder(home: Path) -> tuple[FolderAdapter, Path]:
    base = save_tiny_folder(home / "folder", tiny_config("qwen2"))
    return random_run(home / "folder-run", base), base


def to(target: str, run: FolderAdapter | Path, output: Path, **changes: Any) -> ExportResult:
    path = run if isinstance(run, Path) else run.path
    return export(replace(ExportRequest(path, target, output, Guard(CAP)), **changes), quiet)


def gguf_values(path: Path) -> dict[str, np.ndarray]:
    reader = gguf.GGUFReader(path)
    return {t.name: gguf.quants.dequantize(t.data, t.tensor_type).reshape(t.shape[::-1]) for t in reader.tensors}


def field(path: Path, key: str) -> Any:
    return gguf.GGUFReader(path).fields[key].contents()


# --- a llama.cpp adapter


@pytest.mark.parametrize("base_of", ["llama", "gemma"])
def test_a_gguf_adapter_adds_the_update_to_the_rows_of_the_file(
    base_of: str, request: pytest.FixtureRequest, tmp_path: Path
) -> None:
    run, base = request.getfixturevalue(base_of)
    result = to("gguf", run, tmp_path / "a.gguf")
    assert "llama.cpp" in result.runtime and result.files == ("a.gguf",)
    for key, wanted in (("general.type", "adapter"), ("adapter.type", "lora")):
        assert field(tmp_path / "a.gguf", key) == wanted
    assert field(tmp_path / "a.gguf", "general.architecture") == field(base, "general.architecture")
    alpha = field(tmp_path / "a.gguf", "adapter.lora.alpha")
    tensors, stored = gguf_values(tmp_path / "a.gguf"), gguf_values(base)
    names = gguf_names(load_config(resolve_base(str(base))))
    weights = merged_weights(run, base)
    for module in run.info.modules:
        name = names.tensor(module)
        a, b = tensors[f"{name}.lora_a"], tensors[f"{name}.lora_b"]
        ours = weights[f"{module}.weight"]
        order = names.row_order(module, len(ours))
        wanted = (ours if order is None else ours[order]).numpy()
        assert np.allclose(stored[name] + alpha / len(a) * b @ a, wanted, atol=1e-5), module


@pytest.mark.parametrize("family", FAMILIES)
def test_every_family_that_the_engine_trains_can_be_written(family: str, tmp_path: Path) -> None:
    base = save_tiny_folder(tmp_path / "base", tiny_config(family))
    run = random_run(tmp_path / "run", base)
    to("gguf", run, tmp_path / "a.gguf")
    assert len(gguf_values(tmp_path / "a.gguf")) == 2 * len(run.info.modules)


def test_scalings_that_differ_by_layer_are_in_the_file(llama: tuple[FolderAdapter, Path], tmp_path: Path) -> None:
    _, base = llama
    run = random_run(tmp_path / "run", base, use_rslora=True, alpha_pattern={"q_proj": 3.0})
    to("gguf", run, tmp_path / "a.gguf")
    tensors, alpha = gguf_values(tmp_path / "a.gguf"), field(tmp_path / "a.gguf", "adapter.lora.alpha")
    names = gguf_names(load_config(resolve_base(str(base))))
    scalings = {module.scaling for module in run.info.modules.values()}
    assert len(scalings) == 2
    for module in run.info.modules:
        a, b = (tensors[f"{names.tensor(module)}.lora_{side}"] for side in "ab")
        wanted = dense_update(run.factors(module))
        order = names.row_order(module, len(wanted))
        wanted = wanted if order is None else wanted[order]
        assert np.allclose(alpha / len(a) * b @ a, wanted.numpy(), atol=1e-6)


# --- a merged model


def test_a_merged_folder_is_the_model_with_its_adapter(llama: tuple[FolderAdapter, Path], tmp_path: Path) -> None:
    run, base = llama
    result = to("merged", run, tmp_path / "m")
    model = AutoModelForCausalLM.from_pretrained(tmp_path / "m")
    assert model.dtype == torch.float16  # a quantized base: three bits more than bfloat16
    wanted = merged_weights(run, base)
    found = {name: tensor.float() for name, tensor in model.named_parameters()}
    assert set(found) == set(wanted)
    assert all(torch.allclose(found[name], wanted[name], rtol=1e-3, atol=1e-6) for name in wanted)
    assert result.rounding is not None and 0 < result.rounding < 0.1
    assert AutoTokenizer.from_pretrained(tmp_path / "m").chat_template
    assert str(tmp_path.parent) not in (tmp_path / "m" / "config.json").read_text()
    assert "library_name: transformers" in (tmp_path / "m" / "README.md").read_text()


def test_a_merge_in_shards_of_a_bf16_base(
    folder: tuple[FolderAdapter, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run, base = folder
    monkeypatch.setattr(export_merged, "ROWS_WEIGHTS", 512)  # some rows at a time
    monkeypatch.setattr(export_run, "SHARD_BYTES", 50_000)
    to("merged", run, tmp_path / "m")
    shards = sorted(path.name for path in (tmp_path / "m").glob("model-*.safetensors"))
    assert len(shards) > 2 and shards[0] == f"model-00001-of-{len(shards):05d}.safetensors"
    model = AutoModelForCausalLM.from_pretrained(tmp_path / "m")
    assert model.dtype == torch.bfloat16
    wanted = merged_weights(run, base)
    for name, parameter in model.named_parameters():
        assert torch.allclose(parameter.float(), wanted[name], rtol=4e-3, atol=1e-6), name  # half a step of bfloat16


@pytest.mark.parametrize("base_of", ["llama", "gemma"])
@pytest.mark.parametrize(("quantize", "tolerance"), [("f16", 1e-3), ("q8_0", 8e-3)])
def test_a_merged_gguf_reads_back_as_base_plus_update(
    base_of: str, quantize: str, tolerance: float, request: pytest.FixtureRequest, tmp_path: Path
) -> None:
    run, base = request.getfixturevalue(base_of)
    to("merged", run, tmp_path / "m.gguf", quantize=quantize)
    found = values(prepared_store(tmp_path / "m.gguf", "gguf")[0])
    wanted = merged_weights(run, base)
    assert set(found) == set(wanted)
    for name in wanted:
        assert (found[name] - wanted[name]).abs().max() <= tolerance * wanted[name].abs().max() + 1e-6, name
    kept, ours = gguf.GGUFReader(base).fields, gguf.GGUFReader(tmp_path / "m.gguf").fields
    assert ours["general.file_type"].contents() == {"f16": 1, "q8_0": 7}[quantize]
    for key in kept:
        if not key.startswith(("GGUF.", "general.")):
            assert ours[key].contents() == kept[key].contents(), key


# --- Ollama


@pytest.mark.parametrize(
    ("family", "version", "takes"),
    [
        ("llama", (0, 34, 0), True),
        ("llama", (0, 34, 1), False),
        ("llama", None, False),
        ("phi3", (0, 12, 6), True),
        ("gemma3", (0, 12, 6), False),
        ("qwen3", None, False),
    ],
)
def test_whether_ollama_takes_an_adapter(family: str, version: tuple[int, ...] | None, takes: bool) -> None:
    choice = choose(family, version)
    assert choice.takes_adapter is takes and bool(choice.reason) is not takes


def test_for_an_older_ollama_adapter_and_base_lie_side_by_side(
    llama: tuple[FolderAdapter, Path], tmp_path: Path
) -> None:
    run, base = llama
    result = to("ollama", run, tmp_path / "My Notes", ollama_version="0.33.2")
    assert result.files == ("Modelfile", "adapter.gguf", "base.gguf")
    assert (tmp_path / "My Notes" / "base.gguf").read_bytes() == base.read_bytes()
    text = (tmp_path / "My Notes" / "Modelfile").read_text()
    assert text.startswith("FROM ./base.gguf\nADAPTER ./adapter.gguf\nTEMPLATE ")
    assert 'PARAMETER stop "<eos>"' in text and "<bos>assistant\n" in text
    assert result.commands == (
        f"ollama create my-notes -f {tmp_path / 'My Notes' / 'Modelfile'}",
        "ollama run my-notes",
    )


def test_for_the_newest_ollama_the_adapter_is_folded_in_and_that_is_said(
    llama: tuple[FolderAdapter, Path], tmp_path: Path
) -> None:
    said: list[str] = []
    run, _ = llama
    request = ExportRequest(run.path, "ollama", tmp_path / "o", Guard(CAP))
    result = export(request, lambda event: said.append(str(event.get("message"))))
    assert result.files == ("Modelfile", "model.gguf")
    assert "ADAPTER" not in (tmp_path / "o" / "Modelfile").read_text()
    assert any("takes no adapters" in message and "folded" in message for message in said)
    to("ollama", run, tmp_path / "o", quantize="f16", force=True)
    assert field(tmp_path / "o" / "model.gguf", "general.file_type") == 1


def test_versions_of_ollama_are_read() -> None:
    assert parse_version("0.34.0") == parse_version("v0.34") == (0, 34, 0)
    with pytest.raises(UsageError, match="not a version"):
        parse_version("newest")


# --- a folder to share


def test_a_shared_folder_says_nothing_of_machine_or_person(llama: tuple[FolderAdapter, Path], tmp_path: Path) -> None:
    run, base = llama
    dirty = tmp_path / "Ottilie's notes"
    shutil.copytree(run.path, dirty)
    config = json.loads((dirty / "adapter_config.json").read_text())
    config |= {"base_model_name_or_path": str(base), "runtime_config": {"note": "/home/ottilie"}}
    (dirty / "adapter_config.json").write_text(json.dumps(config))
    info = json.loads((dirty / "pocketft.json").read_text())
    info |= {
        "plan": {"where": "/home/ottilie"},
        "data": "/home/ottilie/notes",
        "metrics": {"loss": 2.0, "text": "Dear"},
    }
    info |= {"parents": [{"label": "ottilie-laptop", "sha256": "e" * 64, "weight": 1.0}]}
    (dirty / "pocketft.json").write_text(json.dumps(info))
    (dirty / "log.jsonl").write_text("{}")
    to("peft", dirty, tmp_path / "clean")
    assert sorted(path.name for path in (tmp_path / "clean").iterdir()) == [
        "README.md",
        "adapter_config.json",
        "adapter_model.safetensors",
        "pocketft.json",
    ]
    for path in (tmp_path / "clean").iterdir():
        content = path.read_bytes().decode("utf-8", errors="replace")
        assert "ottilie" not in content.lower() and str(base.parent) not in content and "Dear" not in content
    kept = json.loads((tmp_path / "clean" / "pocketft.json").read_text())
    assert kept["parents"] == [{"sha256": "e" * 64, "weight": 1.0}] and kept["metrics"] == {"loss": 2.0}
    merged = export_merged_model(run, tmp_path)
    loaded = PeftModel.from_pretrained(merged, str(tmp_path / "clean")).merge_and_unload()
    wanted = merged_weights(run, base)
    name = "model.layers.1.self_attn.q_proj.weight"
    assert torch.allclose(loaded.state_dict()[name], wanted[name], atol=1e-5)


def export_merged_model(run: FolderAdapter, tmp_path: Path) -> Any:
    """The base itself in float32, to load an adapter on."""
    base = resolve_base(json.loads((run.path / "recipe.yaml").read_text())["model"]["name"])
    model = AutoModelForCausalLM.from_config(load_config(base), dtype=torch.float32)
    model.load_state_dict(values(base.store), strict=False)
    model.tie_weights()
    return model


def test_a_catalog_base_is_named_as_the_hub_has_it(tmp_path: Path, llama: tuple[FolderAdapter, Path]) -> None:
    from pocketft.adapters.export_peft import shareable

    info = llama[0].info
    info = replace(info, base=replace(info.base, name="smollm2-135m"))
    assert shareable(info).config["base_model_name_or_path"] == "HuggingFaceTB/SmolLM2-135M-Instruct"


# --- whole or not at all

KINDS: list[tuple[str, dict[str, Any]]] = [
    ("gguf", {}),
    ("merged", {}),
    ("merged", {"quantize": "q8_0"}),
    ("ollama", {}),
    ("ollama", {"ollama_version": "0.34.0"}),
    ("peft", {}),
]


@pytest.mark.parametrize(("target", "changes"), KINDS)
@pytest.mark.parametrize("end", [OSError(errno.ENOSPC, "No space left on device"), KeyboardInterrupt()])
def test_a_full_disk_or_ctrl_c_leaves_nothing_new_and_the_old_as_it_was(
    llama: tuple[FolderAdapter, Path],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    target: str,
    changes: dict[str, Any],
    end: BaseException,
) -> None:
    run, _ = llama
    name = "x.gguf" if target == "gguf" or (target == "merged" and changes) else "x"
    output = tmp_path / "out" / name
    to(target, run, output, **changes)
    before = {path: path.read_bytes() for path in (tmp_path / "out").rglob("*") if path.is_file()}
    calls = 0
    read = FolderAdapter.factors

    def failing(self: FolderAdapter, module: str) -> Any:
        nonlocal calls
        calls += 1
        if calls > len(run.info.modules) + 3:  # past the check of all values, in the middle of writing
            raise end
        return read(self, module)

    monkeypatch.setattr(FolderAdapter, "factors", failing)
    with pytest.raises((StorageError, KeyboardInterrupt)):
        to(target, run, output, force=True, **changes)
    after = {path: path.read_bytes() for path in (tmp_path / "out").rglob("*") if path.is_file()}
    assert calls and after == before


def test_a_disk_without_room_is_found_before_anything_is_written(
    llama: tuple[FolderAdapter, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(shutil, "disk_usage", lambda path: shutil._ntuple_diskusage(10, 10, 10))
    for target, changes in KINDS[:-1]:
        name = "x.gguf" if target == "gguf" or (target == "merged" and changes) else "x"
        with pytest.raises(StorageError, match="disk has"):
            to(target, llama[0], tmp_path / "out" / name, **changes)
    assert not (tmp_path / "out").exists()


# --- refused before anything is written


def damaged(run: FolderAdapter, folder: Path, **changes: Any) -> Path:
    shutil.copytree(run.path, folder)
    for name in ("adapter_config.json", "pocketft.json"):
        if name in changes:
            known = json.loads((folder / name).read_text())
            (folder / name).write_text(json.dumps({**known, **changes[name]}))
    return folder


def test_what_is_no_plain_lora_of_this_base_is_refused(llama: tuple[FolderAdapter, Path], tmp_path: Path) -> None:
    run, _ = llama
    record = json.loads((run.path / "pocketft.json").read_text())["base"]
    other = {"base": {**record, "artifact_sha256": "f" * 64}}
    cases = {
        "DoRA": damaged(run, tmp_path / "dora", **{"adapter_config.json": {"use_dora": True}}),
        "SHA-256": damaged(run, tmp_path / "other", **{"pocketft.json": other}),
        "no numbers": damaged(run, tmp_path / "nan"),
        "also changes": damaged(run, tmp_path / "bias"),
        "no layer": damaged(run, tmp_path / "layers"),
    }
    state = load_file(run.path / "adapter_model.safetensors")
    first = next(name for name in state if name.endswith("lora_B.weight"))
    save_file({**state, first: state[first] * float("nan")}, cases["no numbers"] / "adapter_model.safetensors")
    bias = {**state, first.replace("lora_B.weight", "base_layer.bias"): torch.zeros(3)}
    save_file(bias, cases["also changes"] / "adapter_model.safetensors")
    moved = {name.replace("layers.1.", "layers.7."): tensor for name, tensor in state.items()}
    save_file(moved, cases["no layer"] / "adapter_model.safetensors")
    for said, path in cases.items():
        for target, output in (("gguf", "o.gguf"), ("merged", "o"), ("ollama", "o")):
            with pytest.raises((AdapterError, UsageError), match=said):
                to(target, path, tmp_path / output)
            assert not (tmp_path / output).exists()


def test_a_merged_gguf_needs_a_gguf(folder: tuple[FolderAdapter, Path], tmp_path: Path) -> None:
    for target, output in (("merged", "o.gguf"), ("ollama", "o")):
        with pytest.raises(UsageError, match="convert_hf_to_gguf"):
            to(target, folder[0], tmp_path / output, quantize="f16")
    assert not list(tmp_path.iterdir())


def test_values_beyond_float16_are_refused_with_the_way_out(llama: tuple[FolderAdapter, Path], tmp_path: Path) -> None:
    huge = random_run(tmp_path / "run", llama[1], lora_alpha=1e6)
    with pytest.raises(AdapterError, match="--dtype bf16"):
        to("merged", huge, tmp_path / "m")
    with pytest.raises(AdapterError, match="--quantize q8_0"):
        to("merged", huge, tmp_path / "m.gguf", quantize="f16")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["run"]
    to("merged", huge, tmp_path / "m", dtype="bf16")


@pytest.mark.parametrize(
    ("target", "output", "changes", "said"),
    [
        ("gguf", "o", {}, "name such as o.gguf"),
        ("gguf", "there.gguf", {}, "already there"),
        ("merged", "full", {}, "not empty"),
        ("merged", "full", {"force": True}, "holds diary.txt"),
        ("peft", "full", {"force": True}, "holds diary.txt"),
        ("gguf", "o.gguf", {"quantize": "f16"}, "--quantize belongs"),
        ("merged", "o.gguf", {"quantize": "f16", "dtype": "f16"}, "--dtype belongs"),
        ("peft", "o", {"ollama_version": "1.0.0"}, "--ollama-version belongs"),
    ],
)
def test_mistakes_are_told_and_nothing_is_touched(
    llama: tuple[FolderAdapter, Path], tmp_path: Path, target: str, output: str, changes: dict[str, Any], said: str
) -> None:
    (tmp_path / "there.gguf").write_text("mine")
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "diary.txt").write_text("mine")
    with pytest.raises(PocketftError, match=said):
        to(target, llama[0], tmp_path / output, **changes)
    assert (tmp_path / "there.gguf").read_text() == (tmp_path / "full" / "diary.txt").read_text() == "mine"
    assert len(list(tmp_path.iterdir())) == 2


# --- the command


def test_the_command_says_where_it_runs(pocketft: Cli, llama: tuple[FolderAdapter, Path]) -> None:
    run = str(llama[0].path)
    ran = pocketft("export", run, "--to", "ollama", "-o", "o")
    assert ran.code == 0 and "ollama create o -f o/Modelfile" in ran.out and "ollama run o" in ran.out
    assert "takes no adapters" in ran.err
    found = json.loads(pocketft("export", run, "--to", "merged", "--quantize", "f16", "-o", "m.gguf", "--json").out)
    assert found["runtime"].startswith("llama.cpp") and found["files"] == ["m.gguf"] and found["rounding"] > 0
    again = pocketft("export", run, "--to", "merged", "--quantize", "f16", "-o", "m.gguf")
    assert again.code == 2 and "--force" in again.err and len(again.err.strip().splitlines()) == 1
