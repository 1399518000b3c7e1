"""Reading what others wrote, believing none of it; writing what PEFT reads."""

from __future__ import annotations

import json
import os
import pickle
import struct
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from peft import LoraConfig, PeftModel, get_peft_model
from safetensors.torch import load_file, save_file
from torch import Tensor
from transformers import LlamaConfig, LlamaForCausalLM

from pocketft.adapters.folder import read_adapter, write_adapter
from pocketft.adapters.safetensors_file import TensorSpec, read_header, read_tensor, write_tensors
from pocketft.adapters.state import Factors, folded
from pocketft.errors import AdapterError, PocketftError, StorageError, UsageError
from tests.adapters.build import adapter, changed, dense, distance, write

TINY = LlamaConfig(
    hidden_size=16,
    intermediate_size=24,
    num_hidden_layers=2,
    num_attention_heads=2,
    num_key_value_heads=1,
    vocab_size=32,
)


def tiny_model(seed: int = 0) -> LlamaForCausalLM:
    torch.manual_seed(seed)
    return LlamaForCausalLM(TINY)


def peft_adapter(folder: Path, **config: Any) -> PeftModel:
    """A LoRA with random B, saved by PEFT itself."""
    values = {"r": 4, "lora_alpha": 8, "target_modules": ["q_proj", "down_proj"], "task_type": "CAUSAL_LM", **config}
    model = get_peft_model(tiny_model(), LoraConfig(**values))
    for name, parameter in model.named_parameters():
        if "lora_" in name:
            torch.nn.init.normal_(parameter)
    model.save_pretrained(str(folder))
    return model


@pytest.mark.parametrize(
    "config",
    [
        {},
        {"use_rslora": True},
        {"rank_pattern": {"q_proj": 2}, "alpha_pattern": {"layers.1.mlp.down_proj": 3}},
        {"rank_pattern": {r".*\.1\.self_attn\.q_proj": 6}, "use_rslora": True, "alpha_pattern": {"q_proj": 5}},
        {"target_modules": ["q_proj", "embed_tokens"]},
        {"target_modules": "all-linear", "init_lora_weights": "gaussian"},
    ],
)
@pytest.mark.filterwarnings("ignore")
def test_updates_are_those_that_peft_computes(tmp_path: Path, config: dict[str, Any]) -> None:
    model = peft_adapter(tmp_path / "a", **config)
    state = read_adapter(tmp_path / "a")
    assert not state.info.problems
    assert state.info.modules
    for name, module in state.info.modules.items():
        wanted = model.get_submodule(f"base_model.model.{name}").get_delta_weight("default").double()
        factors = state.factors(name)
        update = factors.scaling * factors.b.double() @ factors.a.double()
        assert torch.allclose(update.T if module.kind == "embedding" else update, wanted, rtol=1e-4, atol=1e-5)


def test_whole_tensors_beside_the_factors_are_read(tmp_path: Path) -> None:
    peft_adapter(tmp_path / "a", modules_to_save=["lm_head"])
    state = read_adapter(tmp_path / "a")
    (name,) = state.info.extras
    assert "lm_head" in name and state.info.extras[name] == (32, 16)
    assert state.extra(name).shape == (32, 16)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16, torch.float64])
def test_every_float_type_is_read_into_float32(tmp_path: Path, dtype: torch.dtype) -> None:
    original = adapter(1)
    state = read_adapter(write(tmp_path / "a", original, dtype=dtype))
    assert state.info.modules.keys() == original.info.modules.keys()
    for name, module in state.info.modules.items():
        assert torch.equal(state.factors(name).a, original.factors(name).a.to(dtype).float())
        assert module.scaling == 2.0


def test_tensor_names_without_pefts_prefix_are_understood(tmp_path: Path) -> None:
    folder = write(tmp_path / "a", adapter(1))
    file = folder / "adapter_model.safetensors"
    save_file({name.removeprefix("base_model.model."): tensor for name, tensor in load_file(file).items()}, file)
    assert distance(dense(read_adapter(folder)), dense(adapter(1))) == 0


def test_writing_and_reading_gives_the_same_adapter_and_peft_loads_it(tmp_path: Path) -> None:
    trained = peft_adapter(tmp_path / "a", use_rslora=True)
    state = read_adapter(tmp_path / "a")
    write_adapter(tmp_path / "b", state, {"README.md": "card"})
    again = read_adapter(tmp_path / "b")
    assert distance(dense(again), dense(state)) == 0
    assert (tmp_path / "b" / "README.md").read_text() == "card"
    loaded = PeftModel.from_pretrained(tiny_model(), str(tmp_path / "b"))
    ids = torch.arange(8)[None]
    with torch.no_grad():
        assert torch.allclose(loaded(ids).logits, trained(ids).logits, atol=1e-5)


def test_folded_factors_hold_the_scaling(tmp_path: Path) -> None:
    state = adapter(3, scaling=0.25)
    assert folded(state).keys() == state.info.modules.keys()
    for name, (a, b) in folded(state).items():
        assert torch.allclose((b @ a).double(), dense(state)[name], atol=1e-5)


class Bomb:
    def __reduce__(self) -> tuple[Callable[..., Any], tuple[Any, ...]]:
        return os.system, ("touch exploded",)


def test_pickles_are_never_opened(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    folder = write(tmp_path / "a", adapter(1))
    weights = folder / "adapter_model.safetensors"
    weights.unlink()
    (folder / "adapter_model.bin").write_bytes(pickle.dumps(Bomb()))
    for path in (folder, folder / "adapter_model.bin"):
        with pytest.raises(AdapterError, match="pickle"):
            read_adapter(path)
    for disguised in (pickle.dumps(Bomb()), b"PK\x03\x04" + bytes(100)):
        weights.write_bytes(disguised)
        with pytest.raises(AdapterError, match="pickle"):
            read_adapter(folder)
    assert not (tmp_path / "exploded").exists()


def raw(header: Any, data: bytes = b"", length: int | None = None) -> bytes:
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    return struct.pack("<Q", len(text) if length is None else length) + text + data


def tensor(shape: list[Any], start: Any, stop: Any, dtype: str = "F32") -> dict[str, Any]:
    return {"dtype": dtype, "shape": shape, "data_offsets": [start, stop]}


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (b"", "not a safetensors file"),
        (b"hello", "not a safetensors file"),
        (raw({}, length=2**60), "not a safetensors file"),
        (raw(b" " * (17 << 20)), "header alone"),
        (raw(b"{]"), "damaged header"),
        (raw(b"[" * 100_000), "damaged header"),
        (raw(b"[1]"), "damaged header"),
        (raw(b"\xff\xfe{}"), "damaged header"),
        (raw({"a": 3}), "damaged header"),
        (raw({"a": tensor([2], 0, 8, "I64")}, bytes(8)), "floats"),
        (raw({"a": tensor([-2], 0, 8)}, bytes(8)), "damaged header"),
        (raw({"a": tensor([2.0], 0, 8)}, bytes(8)), "damaged header"),
        (raw({"a": tensor([True], 0, 4)}, bytes(4)), "damaged header"),
        (raw({"a": tensor([2**40], 0, 2**42)}, bytes(8)), "no adapter is that large"),
        (raw({"a": tensor([2**23, 2**23], 0, 2**48)}, bytes(8)), "no adapter is that large"),
        (raw({"a": tensor([0, 2**23, 2**23], 0, 8)}, bytes(8)), "disagree"),
        (raw({"a": tensor([3], 0, 8)}, bytes(8)), "disagree"),
        (raw({"a": tensor([2], 0, 8)}, bytes(4)), "cut short"),
        (raw({"a": tensor([2], 0, 8)}, bytes(12)), "cut short"),
        (raw({"a": tensor([2], 4, 12)}, bytes(12)), "holes"),
        (raw({"a": tensor([2], 0, 8), "b": tensor([2], 4, 12)}, bytes(12)), "overlap"),
        (raw(b'{"a": {"dtype":"F32","shape":[1],"data_offsets":[0,4]}, "a": 1}', bytes(4)), "twice"),
        (raw({"a\x1b[2J": tensor([2], 0, 8)}, bytes(8)), "impossible name"),
        (raw({"a" * 300: tensor([2], 0, 8)}, bytes(8)), "impossible name"),
    ],
)
def test_damaged_and_hostile_weights_are_refused_with_a_reason(tmp_path: Path, content: bytes, words: str) -> None:
    folder = write(tmp_path / "a", adapter(1))
    (folder / "adapter_model.safetensors").write_bytes(content)
    with pytest.raises(AdapterError, match=words) as refused:
        read_adapter(folder)
    assert str(refused.value).isprintable() and len(str(refused.value)) < 500


@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.binary(max_size=60), st.integers(0, 400), st.booleans())
def test_no_bytes_in_the_header_do_more_than_be_refused(tmp_path: Path, junk: bytes, at: int, insert: bool) -> None:
    folder = write(tmp_path / "a", adapter(1))
    file = folder / "adapter_model.safetensors"
    good = file.read_bytes()
    file.write_bytes(good[:at] + junk + good[at + (0 if insert else len(junk)) :])
    try:
        read_adapter(folder)
    except PocketftError as error:
        assert str(error).isprintable()


@pytest.mark.parametrize(
    ("name", "text", "words"),
    [
        ("adapter_config.json", "{", "not readable as JSON"),
        ("adapter_config.json", "[]", "table"),
        ("adapter_config.json", '{"a":' * 10_000, "not readable as JSON"),
        ("adapter_config.json", " " * (9 << 20), "too large"),
        ("adapter_config.json", '{"peft_type": "LORA", "r": 8}', "do not belong together"),
        ("adapter_config.json", '{"peft_type": "LORA", "r": "4"}', "whole number"),
        ("adapter_config.json", '{"peft_type": "LORA", "r": 4, "lora_alpha": NaN}', "lora_alpha"),
        ("adapter_config.json", '{"peft_type": "LORA", "r": 4, "lora_alpha": 1e300}', "lora_alpha"),
        ("adapter_config.json", '{"peft_type": "LORA", "r": 4, "rank_pattern": [1]}', "table of names"),
        ("adapter_config.json", '{"peft_type": "LORA", "r": 4, "rank_pattern": {"((a+)+)+x": 4}}', "too involved"),
        ("adapter_config.json", '{"peft_type": "LORA", "r": 4, "alpha_pattern": {"(": 4}}', "no regular expression"),
        ("pocketft.json", '{"format": 2}', "newer pocketft"),
        ("pocketft.json", "no", "not readable as JSON"),
    ],
)
def test_damaged_and_hostile_configurations_are_refused(tmp_path: Path, name: str, text: str, words: str) -> None:
    folder = write(tmp_path / "a", adapter(1))
    (folder / name).write_text(text)
    with pytest.raises(AdapterError, match=words):
        read_adapter(folder)


@pytest.mark.parametrize(
    ("config", "words"),
    [
        ({"use_dora": True}, "DoRA"),
        ({"init_lora_weights": "pissa"}, "pissa"),
        ({"init_lora_weights": "pissa_niter_4"}, "pissa_niter_4"),
        ({"init_lora_weights": "olora"}, "olora"),
        ({"init_lora_weights": "loftq"}, "loftq"),
        ({"lora_bias": True}, "lora_bias"),
        ({"layer_replication": [[0, 2]]}, "layer replication"),
        ({"some_new_variant": {"strength": 2}}, "some_new_variant"),
        ({"peft_type": "LOHA"}, "LOHA"),
    ],
)
def test_variants_can_be_looked_at_but_carry_their_problem(tmp_path: Path, config: dict[str, Any], words: str) -> None:
    state = read_adapter(write(tmp_path / "a", adapter(1), config=config))
    assert words in " ".join(state.info.problems)


@pytest.mark.parametrize("init", [True, False, "gaussian", "eva", "orthogonal", None])
def test_initialisations_that_leave_the_base_alone_are_fine(tmp_path: Path, init: Any) -> None:
    assert not read_adapter(write(tmp_path / "a", adapter(1), config={"init_lora_weights": init})).info.problems


def test_unknown_factors_are_a_problem_even_if_the_configuration_is_silent(tmp_path: Path) -> None:
    folder = write(tmp_path / "a", adapter(1))
    file = folder / "adapter_model.safetensors"
    for extra, words in (("lora_magnitude_vector", "magnitude"), ("lora_diag", "unknown LoRA variant")):
        name = f"base_model.model.model.layers.0.self_attn.q_proj.{extra}"
        save_file({**load_file(write(tmp_path / "b", adapter(1)) / file.name), name: torch.ones(3)}, file)
        assert words in " ".join(read_adapter(folder).info.problems)


def test_wrong_shapes_are_refused(tmp_path: Path) -> None:
    folder = write(tmp_path / "a", adapter(1))
    file = folder / "adapter_model.safetensors"
    name = "base_model.model.model.layers.0.self_attn.q_proj.lora_A.weight"
    for wrong in (torch.ones(5, 24), torch.ones(4), torch.ones(4, 2, 2)):
        save_file({**load_file(write(tmp_path / "b", adapter(1)) / file.name), name: wrong}, file)
        with pytest.raises(AdapterError, match="do not make a product"):
            read_adapter(folder)
    tensors = load_file(write(tmp_path / "b", adapter(1)) / file.name)
    del tensors[name]
    save_file(tensors, file)
    with pytest.raises(AdapterError, match="only its factor B"):
        read_adapter(folder)


def test_missing_files_are_said(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="no such adapter"):
        read_adapter(tmp_path / "nothing")
    (tmp_path / "empty").mkdir()
    with pytest.raises(AdapterError, match=r"no adapter_model\.safetensors"):
        read_adapter(tmp_path / "empty")
    folder = write(tmp_path / "a", adapter(1))
    (folder / "adapter_config.json").unlink()
    with pytest.raises(AdapterError, match=r"no adapter_config\.json"):
        read_adapter(folder)


def test_a_file_can_be_named_instead_of_its_folder(tmp_path: Path) -> None:
    folder = write(tmp_path / "my adapter", adapter(1))
    assert read_adapter(folder / "adapter_model.safetensors").info.label == "my adapter"


def test_control_characters_in_names_reach_no_terminal(tmp_path: Path) -> None:
    folder = write(tmp_path / "evil\x1b[31m", adapter(1))
    assert read_adapter(folder).info.label == "evil?[31m"


def test_the_writer_writes_what_the_safetensors_library_reads(tmp_path: Path) -> None:
    tensors = {"α": torch.randn(3, 5), "b": torch.randn(7).bfloat16(), "empty": torch.zeros(0, 4)}
    specs = {name: TensorSpec(value.dtype, tuple(value.shape)) for name, value in tensors.items()}
    write_tensors(tmp_path / "f", specs, tensors.items())
    assert all(torch.equal(value, tensors[name]) for name, value in load_file(tmp_path / "f").items())
    entries = read_header(tmp_path / "f")
    assert torch.equal(read_tensor(tmp_path / "f", entries["α"]), tensors["α"])
    with pytest.raises(ValueError, match="fewer"):
        write_tensors(tmp_path / "f", specs, [])
    with pytest.raises(ValueError, match="belongs"):
        write_tensors(tmp_path / "f", specs, [("b", tensors["b"])])


@pytest.mark.parametrize("length", [640, 0x4B50])
def test_a_header_whose_length_begins_like_a_pickle_is_still_a_header(tmp_path: Path, length: int) -> None:
    text = b'{"a":{"dtype":"F32","shape":[1],"data_offsets":[0,4]}}'
    text += b" " * (length - len(text))
    (tmp_path / "f").write_bytes(length.to_bytes(8, "little") + text + b"\0\0\0\0")
    assert (length.to_bytes(8, "little")[:1] == b"\x80") or length.to_bytes(8, "little")[:2] == b"PK"
    assert list(read_header(tmp_path / "f")) == ["a"]


class Failing:
    """An adapter whose second module cannot be computed."""

    def __init__(self, error: BaseException) -> None:
        self.good, self.error = adapter(1), error
        self.info = self.good.info
        self.calls = 0

    def factors(self, module: str) -> Factors:
        self.calls += 1
        if self.calls > 1:
            raise self.error
        return self.good.factors(module)

    def extra(self, name: str) -> Tensor:
        raise NotImplementedError


@pytest.mark.parametrize("error", [KeyboardInterrupt(), OSError(28, "No space left on device"), AdapterError("no")])
@pytest.mark.parametrize("existing", [False, True])
def test_a_write_that_fails_leaves_what_was_there(tmp_path: Path, error: BaseException, existing: bool) -> None:
    output = tmp_path / "out"
    if existing:
        write(output, adapter(7))
    before = sorted((p.name, p.read_bytes()) for p in output.iterdir()) if existing else []
    with pytest.raises(StorageError if isinstance(error, OSError) else type(error)):
        write_adapter(output, Failing(error), force=True)
    assert [p.name for p in tmp_path.iterdir()] == (["out"] if existing else [])
    assert (sorted((p.name, p.read_bytes()) for p in output.iterdir()) if existing else []) == before


def test_nothing_but_adapters_is_ever_replaced(tmp_path: Path) -> None:
    state = changed(adapter(1), config={"peft_type": "LORA", "r": 4, "lora_alpha": 8})
    (tmp_path / "file").write_text("mine")
    with pytest.raises(UsageError, match="is a file"):
        write_adapter(tmp_path / "file", state, force=True)
    folder = write(tmp_path / "old", adapter(2))
    with pytest.raises(UsageError, match="not empty"):
        write_adapter(folder, state)
    (folder / "diary.txt").write_text("mine")
    with pytest.raises(UsageError, match=r"diary\.txt"):
        write_adapter(folder, state, force=True)
    (folder / "diary.txt").unlink()
    write_adapter(folder, state, force=True)
    assert distance(dense(read_adapter(folder)), dense(state)) < 1e-6


@pytest.fixture(autouse=True)
def one_thread() -> Iterator[None]:
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)
