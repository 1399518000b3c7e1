"""Dequantization of the kinds that are not GGUF's own, and what must hold for all: chunks, devices, refusals."""

from __future__ import annotations

import bitsandbytes.functional as bnb
import pytest
import torch

from pocketft.engine import packed as packed_module
from pocketft.engine.packed import PackedTensor, dequantize, pack_nibbles, packed_codes_shape

DEVICES = ["cpu"]
if torch.cuda.is_available():
    DEVICES.append("cuda")
if torch.backends.mps.is_available():
    DEVICES.append("mps")


def int8(rows: int, columns: int) -> PackedTensor:
    codes = torch.randint(-127, 128, (rows, columns), dtype=torch.int8)
    return PackedTensor("int8", (rows, columns), {"codes": codes, "scale": torch.rand(rows, 1)})


def nf4(rows: int, columns: int) -> PackedTensor:
    codes = torch.randint(0, 256, (rows, columns // 2), dtype=torch.uint8)
    parts = {"codes": codes, "absmax": torch.rand(rows, columns // 64)}
    return PackedTensor("nf4", (rows, columns), parts, group_size=64)


def affine4(rows: int, columns: int) -> PackedTensor:
    codes = torch.randint(0, 16, (rows, columns), dtype=torch.uint8)
    scales = torch.randn(2, rows, columns // 32).half()
    parts = {"codes": pack_nibbles(codes, 32), "scale": scales[0], "minimum": scales[1]}
    return PackedTensor("affine4", (rows, columns), parts, group_size=32)


def affine8(rows: int, columns: int) -> PackedTensor:
    codes = torch.randint(0, 256, (rows, columns), dtype=torch.uint8)
    parts = {"codes": codes, "scale": torch.randn(rows, columns // 16).half()}
    return PackedTensor("affine8", (rows, columns), parts, group_size=16, zero_point=128)


KINDS = {"int8": int8, "nf4": nf4, "affine4": affine4, "affine8": affine8}


def values_of(tensor: PackedTensor, dtype: torch.dtype = torch.float32) -> torch.Tensor:
    out = torch.empty(tensor.shape, dtype=dtype, device=tensor.device)
    dequantize(tensor, out)
    return out


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_nf4_equals_bitsandbytes(dtype: torch.dtype) -> None:
    weight = torch.randn(48, 192).to(dtype)
    codes, state = bnb.quantize_4bit(weight, blocksize=64, quant_type="nf4")
    tensor = PackedTensor("nf4", (48, 192), {"codes": codes.view(48, -1), "absmax": state.absmax.view(48, -1)}, 64)
    assert torch.equal(values_of(tensor, dtype), bnb.dequantize_4bit(codes, state))


def test_nf4_on_devices_without_a_kernel_gives_the_same_values() -> None:
    tensor = nf4(6, 128)
    by_table = packed_module._nf4_by_table(tensor.parts["codes"], tensor.parts["absmax"])
    assert torch.equal(by_table.view(6, 128), values_of(tensor))


def test_int8_is_code_times_row_scale() -> None:
    tensor = int8(5, 24)
    assert torch.equal(values_of(tensor), tensor.parts["codes"].float() * tensor.parts["scale"])


def test_affine8_zero_point_is_subtracted() -> None:
    tensor = affine8(4, 32)
    codes = tensor.parts["codes"].float() - 128
    assert torch.equal(values_of(tensor), codes * tensor.parts["scale"].float().repeat_interleave(16, dim=1))


@pytest.mark.parametrize("columns", [32, 64, 96, 160])
def test_nibbles_survive_packing_for_odd_and_even_groups(columns: int) -> None:
    codes = torch.randint(0, 16, (3, columns), dtype=torch.uint8)
    packed = pack_nibbles(codes, 32)
    assert tuple(packed.shape) == packed_codes_shape("affine4", (3, columns), 32)
    tensor = PackedTensor("affine4", (3, columns), {"codes": packed, "scale": torch.ones(3, columns // 32).half()}, 32)
    assert torch.equal(values_of(tensor), codes.float())


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_chunks_and_devices_change_nothing(
    kind: str, device: str, dtype: torch.dtype, monkeypatch: pytest.MonkeyPatch
) -> None:
    tensor = KINDS[kind](11, 192)
    whole = values_of(tensor)
    monkeypatch.setattr(packed_module, "_CHUNK_WEIGHTS", 400)  # two rows at a time, the last one alone
    assert torch.equal(values_of(tensor.to(device), dtype).cpu(), whole.to(dtype))


@pytest.mark.parametrize("kind", ["f32", "f16", "bf16"])
def test_plain_kinds_are_copied(kind: str) -> None:
    data = torch.randn(7).to({"f32": torch.float32, "f16": torch.float16, "bf16": torch.bfloat16}[kind])
    assert torch.equal(values_of(PackedTensor(kind, (7,), {"data": data})), data.float())


@pytest.mark.parametrize("kind", KINDS)
def test_parts_are_never_written_to(kind: str) -> None:
    tensor = KINDS[kind](4, 64)
    before = {name: part.clone() for name, part in tensor.parts.items()}
    values_of(tensor)
    values_of(tensor, torch.bfloat16)
    assert all(torch.equal(part, before[name]) for name, part in tensor.parts.items())


@pytest.mark.parametrize("kind", KINDS)
def test_on_the_meta_device_only_the_checks_run(kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(packed_module, "_WRITERS", {})  # whoever gets as far as writing is refused
    tensor = KINDS[kind](4, 64)
    with pytest.raises(ValueError, match="unknown kind"):
        dequantize(tensor, torch.empty(4, 64))
    dequantize(tensor.to("meta"), torch.empty(4, 64, device="meta"))
    with pytest.raises(ValueError, match="out has shape"):
        dequantize(tensor.to("meta"), torch.empty(4, 32, device="meta"))


def test_works_under_inference_mode_and_after_it() -> None:
    tensor = affine4(4, 64)
    with torch.inference_mode():
        inside = values_of(tensor, torch.bfloat16)
    assert torch.equal(inside, values_of(tensor, torch.bfloat16))


def test_wrong_targets_are_refused() -> None:
    tensor = int8(4, 64)
    for out in (torch.empty(4, 32), torch.empty(4, 64, dtype=torch.float16), torch.empty(64, 4).t()):
        with pytest.raises(ValueError, match="dequantize"):
            dequantize(tensor, out)
    with pytest.raises(ValueError, match="unknown kind"):
        values_of(PackedTensor("q9", (4, 64), tensor.parts))


def test_sizes_and_empty_slices() -> None:
    tensor = affine4(6, 64)
    assert tensor.nbytes == 6 * 32 + 2 * 6 * 2 * 2
    assert tensor.rows(2, 2).shape == (0, 64)
    assert values_of(tensor.rows(2, 2)).shape == (0, 64)
