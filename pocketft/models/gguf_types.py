"""GGUF's tensor types as packed tensors: the same numbers in a layout that one pass of torch operations can undo.

Knows the byte layout of each ggml block type and the packing (`models/layout.py`) that carries its values without a
second quantization. Knows nothing of GGUF files. Values are held against `gguf.quants.dequantize` in the tests.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from pocketft.engine.packed import pack_nibbles
from pocketft.models.layout import Layout

_SUPER_BLOCK = 256  # weights in one block of a K type

# The 16 levels of IQ4_NL and IQ4_XS (ggml-common.h, kvalues_iq4nl).
_IQ4_LEVELS = (-127, -104, -83, -65, -49, -35, -22, -10, 1, 13, 25, 38, 53, 69, 89, 113)


@dataclass(frozen=True)
class GgufType:
    """One ggml type: `block_bytes` bytes hold `block_weights` weights; `unpack` turns rows of blocks into parts."""

    name: str
    block_weights: int
    block_bytes: int
    layout: Layout
    unpack: Callable[[Tensor], dict[str, Tensor]]  # (rows, blocks, block_bytes) uint8 -> parts, (rows, ...)

    def row_bytes(self, columns: int) -> int:
        return columns // self.block_weights * self.block_bytes

    def parts(self, raw: Tensor) -> dict[str, Tensor]:
        """Packed parts of `raw`, whole rows as they lie in the file: (rows, row_bytes) uint8."""
        return self.unpack(raw.reshape(raw.shape[0], -1, self.block_bytes))


def _view(raw: Tensor, start: int, stop: int, dtype: torch.dtype) -> Tensor:
    """Bytes start:stop of every block as numbers: (rows, blocks * numbers per block)."""
    return raw[..., start:stop].contiguous().view(dtype).flatten(1)


def _halves(quants: Tensor) -> Tensor:
    """(..., n) bytes -> (..., 2n): all low nibbles, then all high ones."""
    return torch.cat((quants & 0x0F, quants >> 4), dim=-1)


def _bit_planes(packed: Tensor, shifts: tuple[int, ...], mask: int) -> Tensor:
    """(..., n) bytes -> (..., len(shifts), n): one field of bits of every byte after another."""
    return torch.stack([(packed >> shift) & mask for shift in shifts], dim=-2)


def _floats(dtype: torch.dtype) -> Callable[[Tensor], dict[str, Tensor]]:
    return lambda raw: {"data": _view(raw, 0, raw.shape[-1], dtype)}


def _q4_0(raw: Tensor) -> dict[str, Tensor]:
    return {"codes": pack_nibbles(_halves(raw[..., 2:]).flatten(1), 32), "scale": _view(raw, 0, 2, torch.float16)}


def _q4_1(raw: Tensor) -> dict[str, Tensor]:
    codes = pack_nibbles(_halves(raw[..., 4:]).flatten(1), 32)
    return {"codes": codes, "scale": _view(raw, 0, 2, torch.float16), "minimum": _view(raw, 2, 4, torch.float16)}


def _five_bits(raw: Tensor, high_start: int) -> Tensor:
    """The 32 codes of each Q5_0 or Q5_1 block: four bits in nibbles, the fifth in a 32-bit mask before them."""
    mask = raw[..., high_start : high_start + 4]
    fifth = torch.stack([(mask >> bit) & 1 for bit in range(8)], dim=-1).flatten(-2)  # (rows, blocks, 32)
    return _halves(raw[..., high_start + 4 :]) | (fifth << 4)


def _q5_0(raw: Tensor) -> dict[str, Tensor]:
    codes = (_five_bits(raw, 2).view(torch.int8) - 16).flatten(1)
    return {"codes": codes, "scale": _view(raw, 0, 2, torch.float16)}


def _q5_1(raw: Tensor) -> dict[str, Tensor]:
    scale, minimum = _view(raw, 0, 2, torch.float16), _view(raw, 2, 4, torch.float16)
    return {"codes": _five_bits(raw, 4).flatten(1), "scale": scale, "minimum": minimum}


def _q8_0(raw: Tensor) -> dict[str, Tensor]:
    return {"codes": _view(raw, 2, 34, torch.int8), "scale": _view(raw, 0, 2, torch.float16)}


def _q2_k(raw: Tensor) -> dict[str, Tensor]:
    scales, quants = raw[..., :16], raw[..., 16:80].unflatten(-1, (2, 32))
    return {
        "codes": pack_nibbles(_bit_planes(quants, (0, 2, 4, 6), 3).flatten(1), 16),
        "scale": _view(raw, 80, 82, torch.float16),
        "minimum": _view(raw, 82, 84, torch.float16),
        "scale_codes": (scales & 0x0F).flatten(1),
        "minimum_codes": (scales >> 4).flatten(1),
    }


def _q3_k(raw: Tensor) -> dict[str, Tensor]:
    third, quants, scales = raw[..., :32], raw[..., 32:96].unflatten(-1, (2, 32)), raw[..., 96:108]
    low = _bit_planes(quants, (0, 2, 4, 6), 3).flatten(-3)  # (rows, blocks, 256)
    codes = low | (_bit_planes(third, tuple(range(8)), 1).flatten(-2) << 2)
    top = _bit_planes(scales[..., 8:], (0, 2, 4, 6), 3).flatten(-2)
    six_bits = _halves(scales[..., :8]) | (top << 4)
    return {
        "codes": pack_nibbles(codes.flatten(1), 16),
        "scale": _view(raw, 108, 110, torch.float16),
        "scale_codes": (six_bits.view(torch.int8) - 32).flatten(1),
    }


def _six_bit_scales(packed: Tensor) -> tuple[Tensor, Tensor]:
    """The 12 bytes of a Q4_K or Q5_K block -> 8 scales and 8 minimums of six bits, each (rows, blocks * 8)."""
    first, second, third = packed[..., :4], packed[..., 4:8], packed[..., 8:]
    scales = torch.cat((first & 0x3F, (third & 0x0F) | ((first >> 6) << 4)), dim=-1)
    minimums = torch.cat((second & 0x3F, (third >> 4) | ((second >> 6) << 4)), dim=-1)
    return scales.flatten(1), minimums.flatten(1)


def _k_scales(raw: Tensor) -> dict[str, Tensor]:
    scale_codes, minimum_codes = _six_bit_scales(raw[..., 4:16])
    return {
        "scale": _view(raw, 0, 2, torch.float16),
        "minimum": _view(raw, 2, 4, torch.float16),
        "scale_codes": scale_codes,
        "minimum_codes": minimum_codes,
    }


def _q4_k(raw: Tensor) -> dict[str, Tensor]:
    codes = _halves(raw[..., 16:].unflatten(-1, (4, 32)))  # (rows, blocks, 4, 64)
    return {"codes": pack_nibbles(codes.flatten(1), 32), **_k_scales(raw)}


def _q5_k(raw: Tensor) -> dict[str, Tensor]:
    fifth = _bit_planes(raw[..., 16:48], tuple(range(8)), 1).flatten(-2)  # (rows, blocks, 256)
    low = _halves(raw[..., 48:].unflatten(-1, (4, 32))).flatten(-2)
    return {"codes": (low | (fifth << 4)).flatten(1), **_k_scales(raw)}


def _q6_k(raw: Tensor) -> dict[str, Tensor]:
    low = _halves(raw[..., :128].unflatten(-1, (2, 64))).flatten(-2)  # (rows, blocks, 256)
    high = _bit_planes(raw[..., 128:192].unflatten(-1, (2, 32)), (0, 2, 4, 6), 3).flatten(-3)
    codes = (low | (high << 4)).view(torch.int8) - 32
    return {
        "codes": codes.flatten(1),
        "scale": _view(raw, 208, 210, torch.float16),
        "scale_codes": _view(raw, 192, 208, torch.int8),
    }


def _iq4_codes(nibbles: Tensor) -> Tensor:
    return torch.tensor(_IQ4_LEVELS, dtype=torch.int8)[nibbles.flatten(1).int()]


def _iq4_nl(raw: Tensor) -> dict[str, Tensor]:
    return {"codes": _iq4_codes(_halves(raw[..., 2:])), "scale": _view(raw, 0, 2, torch.float16)}


def _iq4_xs(raw: Tensor) -> dict[str, Tensor]:
    low = torch.stack((raw[..., 4:8] & 0x0F, raw[..., 4:8] >> 4), dim=-1).flatten(-2)  # (rows, blocks, 8)
    high = torch.stack([(raw[..., 2:4] >> shift) & 3 for shift in (0, 2, 4, 6)], dim=-1).flatten(-2)
    return {
        "codes": _iq4_codes(_halves(raw[..., 8:].unflatten(-1, (8, 16)))),
        "scale": _view(raw, 0, 2, torch.float16),
        "scale_codes": ((low | (high << 4)).view(torch.int8) - 32).flatten(1),
    }


def _k(kind: str, group_size: int, **options: object) -> Layout:
    return Layout(kind, group_size, super_size=_SUPER_BLOCK, **options)  # type: ignore[arg-type]


# By ggml's numbers, which are part of the file format.
GGUF_TYPES: dict[int, GgufType] = {
    0: GgufType("F32", 1, 4, Layout("f32"), _floats(torch.float32)),
    1: GgufType("F16", 1, 2, Layout("f16"), _floats(torch.float16)),
    2: GgufType("Q4_0", 32, 18, Layout("affine4", 32, zero_point=8), _q4_0),
    3: GgufType("Q4_1", 32, 20, Layout("affine4", 32, has_minimum=True), _q4_1),
    6: GgufType("Q5_0", 32, 22, Layout("affine8", 32, signed=True), _q5_0),
    7: GgufType("Q5_1", 32, 24, Layout("affine8", 32, has_minimum=True), _q5_1),
    8: GgufType("Q8_0", 32, 34, Layout("affine8", 32, signed=True), _q8_0),
    10: GgufType("Q2_K", 256, 84, _k("affine4", 16, has_minimum=True), _q2_k),
    11: GgufType("Q3_K", 256, 110, _k("affine4", 16, zero_point=4, signed_scales=True), _q3_k),
    12: GgufType("Q4_K", 256, 144, _k("affine4", 32, has_minimum=True), _q4_k),
    13: GgufType("Q5_K", 256, 176, _k("affine8", 32, has_minimum=True), _q5_k),
    14: GgufType("Q6_K", 256, 210, _k("affine8", 16, signed=True, signed_scales=True), _q6_k),
    20: GgufType("IQ4_NL", 32, 18, Layout("affine8", 32, signed=True), _iq4_nl),
    23: GgufType("IQ4_XS", 256, 136, _k("affine8", 32, signed=True, signed_scales=True), _iq4_xs),
    30: GgufType("BF16", 1, 2, Layout("bf16"), _floats(torch.bfloat16)),
}
