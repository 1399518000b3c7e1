"""Every GGUF type we accept, against the gguf package's own dequantization, bit for bit in float32."""

from __future__ import annotations

import gguf
import numpy as np
import pytest
import torch
from gguf import GGMLQuantizationType, quants

from pocketft.engine.packed import PackedTensor, dequantize
from pocketft.models.gguf_types import GGUF_TYPES, GgufType
from tests.tiny_models import quantized_rows

TYPES = [pytest.param(number, kind, id=kind.name) for number, kind in GGUF_TYPES.items()]


def rows_of(kind: GgufType, rows: int, columns: int, seed: int) -> tuple[PackedTensor, torch.Tensor]:
    """A packed tensor and what gguf says its values are."""
    random = np.random.default_rng(seed)
    values = random.standard_normal((rows, columns)).astype(np.float32)
    raw = quantized_rows(values, kind.name, random)
    expected = quants.dequantize(raw, GGMLQuantizationType[kind.name]).reshape(rows, columns)
    parts = kind.parts(torch.from_numpy(np.ascontiguousarray(raw).view(np.uint8).reshape(rows, -1)))
    layout = kind.layout
    packed = PackedTensor(layout.kind, (rows, columns), parts, layout.group_size, layout.zero_point)
    return packed, torch.from_numpy(expected.astype(np.float32))


@pytest.mark.parametrize("number, kind", TYPES)
def test_the_table_agrees_with_the_gguf_package(number: int, kind: GgufType) -> None:
    assert GGMLQuantizationType(number).name == kind.name
    assert gguf.GGML_QUANT_SIZES[GGMLQuantizationType(number)] == (kind.block_weights, kind.block_bytes)


@pytest.mark.parametrize("number, kind", TYPES)
@pytest.mark.parametrize("blocks", [1, 2, 3, 6])  # odd numbers of groups leave the last nibbles unused
def test_values_are_those_of_gguf(number: int, kind: GgufType, blocks: int) -> None:
    packed, expected = rows_of(kind, 5, blocks * max(32, kind.block_weights), seed=blocks)
    out = torch.empty(expected.shape)
    dequantize(packed, out)
    assert torch.equal(out, expected)
    rounded = torch.empty(expected.shape, dtype=torch.bfloat16)
    dequantize(packed, rounded)
    assert torch.equal(rounded, expected.bfloat16())


@pytest.mark.parametrize("number, kind", TYPES)
def test_parts_are_what_the_layout_announces(number: int, kind: GgufType) -> None:
    packed, _ = rows_of(kind, 3, 512, seed=0)
    announced = kind.layout.parts((3, 512))
    assert {name: (part.dtype, tuple(part.shape)) for name, part in packed.parts.items()} == announced


@pytest.mark.parametrize("number, kind", TYPES)
def test_rows_can_be_sliced_and_taken(number: int, kind: GgufType) -> None:
    packed, expected = rows_of(kind, 6, 256, seed=1)
    ids = torch.tensor([4, 0, 4])
    for part, reference in ((packed.rows(2, 5), expected[2:5]), (packed.take(ids), expected[ids])):
        out = torch.empty(reference.shape)
        dequantize(part, out)
        assert torch.equal(out, reference)
