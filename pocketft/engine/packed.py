"""Packed tensors: frozen weights as they lie in memory and on disk, and the way back to numbers.

Knows how each kind of packing is laid out and how to undo it, quickly and exactly. Knows nothing of files, of GGUF
(`models/gguf_types.py` translates its types into these kinds) or of models.

    kind      value of a weight                              parts, first dimension always the rows
    f32 f16   data                                           data
    bf16      the same                                       the same
    int8      codes * scale                                  codes i8 (o, i)      scale f32 (o, 1)
    nf4       NF4[codes] * absmax                            codes u8 (o, i/2)    absmax f32 (o, i/group)
    affine4   scale * (codes - zero_point) + minimum         codes u8 (o, ...)    scale f16 (o, groups), minimum or none
    affine8   the same                                       codes u8|i8 (o, i)   the same

Where the affine kinds carry `scale_codes` (and `minimum_codes`), scales have two levels: `scale` and `minimum` belong
to super-blocks of several groups; a group's scale is `scale * scale_codes`, its minimum `-(minimum * minimum_codes)`.

affine4 keeps the first half of a row's groups (rounded up) in the low nibbles and the second half in the high
nibbles, so that both unpack as long runs. Every product is exact in float32 (11 bits of a float16 scale, 6 or 7 of a
scale code, at most 8 of a code), so whatever the order of operations the float32 result is the one rounding of the
true value; bfloat16 output is the rounding of that.
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Protocol

import torch
from torch import Tensor

KINDS = ("f32", "f16", "bf16", "int8", "nf4", "affine4", "affine8")

# Weights per pass. 2^20 keeps the float32 scratch (4 MB) in the last-level cache and makes the fixed cost of the torch
# operations of a pass, 30-60 us, a tenth of it; at 2^16 that cost is three times the work.
_CHUNK_WEIGHTS = 1 << 20

_scratch = threading.local()


class Rows(Protocol):
    """The rows of a packed matrix, wherever they lie."""

    @property
    def shape(self) -> tuple[int, ...]: ...

    def rows(self, start: int, stop: int) -> PackedTensor: ...

    def take(self, ids: Tensor) -> PackedTensor:
        """The rows `ids` (1-D, int64), in that order."""
        ...


@dataclass(frozen=True)
class PackedTensor:
    """One frozen tensor. `shape` is that of the dequantized tensor, (out_features, in_features) for matrices."""

    kind: str
    shape: tuple[int, ...]
    parts: Mapping[str, Tensor]
    group_size: int = 0  # weights along in_features that share one scale
    zero_point: int = 0

    @property
    def nbytes(self) -> int:
        return sum(part.nbytes for part in self.parts.values())

    @property
    def device(self) -> torch.device:
        return next(iter(self.parts.values())).device

    def rows(self, start: int, stop: int) -> PackedTensor:
        """The rows start:stop, as views."""
        parts = {name: part[start:stop] for name, part in self.parts.items()}
        return replace(self, shape=(len(range(self.shape[0])[start:stop]), *self.shape[1:]), parts=parts)

    def take(self, ids: Tensor) -> PackedTensor:
        """Copies of the rows `ids` (1-D, int64), in that order: an embedding lookup on packed weights."""
        parts = {name: part.index_select(0, ids) for name, part in self.parts.items()}
        return replace(self, shape=(ids.numel(), *self.shape[1:]), parts=parts)

    def to(self, device: torch.device | str) -> PackedTensor:
        return replace(self, parts={name: part.to(device) for name, part in self.parts.items()})


def dequantize(packed: PackedTensor, out: Tensor) -> None:
    """Write the values of `packed` into `out`, a contiguous bf16 or f32 tensor of its shape on its device.

    Float32 output is exact; bfloat16 is its rounding. Works in row chunks: extra memory is at most about 5 MB on the
    CPU, kept per thread. On the meta device only the checks run.
    """
    if tuple(out.shape) != tuple(packed.shape):
        raise ValueError(f"dequantize: out has shape {tuple(out.shape)}, the packed tensor {tuple(packed.shape)}")
    if out.dtype not in (torch.float32, torch.bfloat16) or not out.is_contiguous():
        raise ValueError("dequantize: out must be a contiguous float32 or bfloat16 tensor")
    if out.device.type == "meta" or out.numel() == 0:
        return
    if packed.kind in ("f32", "f16", "bf16"):
        out.copy_(packed.parts["data"])
        return
    write = _WRITERS.get(packed.kind)
    if write is None:
        raise ValueError(f"dequantize: unknown kind {packed.kind!r} (known: {', '.join(KINDS)})")
    n_rows, columns = packed.shape
    step = max(1, _CHUNK_WEIGHTS // columns)
    if n_rows <= step:
        write(packed, out)
        return
    for start in range(0, n_rows, step):
        stop = min(start + step, n_rows)
        write(packed.rows(start, stop), out[start:stop])


def packed_codes_shape(kind: str, shape: tuple[int, ...], group_size: int) -> tuple[int, ...]:
    """The shape of the part `codes` of a tensor of `shape`."""
    if kind == "nf4":
        return (shape[0], shape[1] // 2)
    if kind == "affine4":
        return (shape[0], _low_groups(shape[1], group_size) * group_size)
    return shape


def pack_nibbles(codes: Tensor, group_size: int) -> Tensor:
    """Codes 0..15 (o, i) as uint8 -> the affine4 layout (o, ceil(groups/2) * group_size)."""
    split = _low_groups(codes.shape[1], group_size) * group_size
    packed = codes[:, :split].clone()
    packed[:, : codes.shape[1] - split] |= codes[:, split:] << 4
    return packed


def _low_groups(columns: int, group_size: int) -> int:
    return (columns // group_size + 1) // 2


def _scratch_tensor(name: str, dtype: torch.dtype, numel: int, device: torch.device) -> Tensor:
    """A reused buffer: a fresh one would be page-faulted in again on every call, 0.2 ns per weight."""
    if device.type != "cpu":
        return torch.empty(numel, dtype=dtype, device=device)
    held: Tensor | None = getattr(_scratch, name, None)
    if held is None or held.numel() < numel:
        with torch.inference_mode(False):
            held = torch.empty(numel, dtype=dtype)
        setattr(_scratch, name, held)
    return held[:numel]


def _float_target(out: Tensor) -> Tensor:
    """Where to compute in float32: `out` itself, or a scratch of its shape."""
    if out.dtype == torch.float32:
        return out
    return _scratch_tensor("values", torch.float32, out.numel(), out.device).view(out.shape)


def _write_int8(packed: PackedTensor, out: Tensor) -> None:
    values = _float_target(out)
    values.copy_(packed.parts["codes"])
    values.mul_(packed.parts["scale"])
    if values is not out:
        out.copy_(values)


def _write_affine(packed: PackedTensor, out: Tensor) -> None:
    values = _float_target(out)
    if packed.kind == "affine4":
        values.copy_(_unpack_nibbles(packed))
    else:
        values.copy_(packed.parts["codes"])
        if packed.zero_point:
            values.sub_(packed.zero_point)
    scale, minimum = _group_scales(packed)  # (rows, groups) float32
    grouped = values.view(*scale.shape, packed.group_size)  # (rows, groups, group)
    grouped.mul_(scale.unsqueeze(-1))
    if minimum is not None:
        grouped.add_(minimum.unsqueeze(-1))
    if values is not out:
        out.copy_(values)


def _unpack_nibbles(packed: PackedTensor) -> Tensor:
    """The codes of an affine4 tensor, one per byte and less the zero point, in a scratch: (rows, columns)."""
    packed_codes, (rows, columns) = packed.parts["codes"], packed.shape
    codes = _scratch_tensor("codes", torch.uint8, rows * columns, packed.device).view(rows, columns)
    split = _low_groups(columns, packed.group_size) * packed.group_size
    torch.bitwise_and(packed_codes, 0x0F, out=codes[:, :split])
    torch.bitwise_right_shift(packed_codes[:, : columns - split], 4, out=codes[:, split:])
    if packed.zero_point:
        codes = codes.sub_(packed.zero_point).view(torch.int8)  # wraps around to the signed difference
    return codes


def _group_scales(packed: PackedTensor) -> tuple[Tensor, Tensor | None]:
    """Scale and minimum of each group, (rows, groups), float32."""
    parts = packed.parts
    scale = parts["scale"].float()
    minimum = parts["minimum"].float() if "minimum" in parts else None
    if "scale_codes" in parts:
        scale = _second_level(scale, parts["scale_codes"])
        if minimum is not None:
            minimum = _second_level(minimum, parts["minimum_codes"]).neg_()
    return scale, minimum


def _second_level(scale: Tensor, codes: Tensor) -> Tensor:
    """(rows, super-blocks) times (rows, groups) -> (rows, groups) float32."""
    rows, supers = scale.shape
    return (codes.float().view(rows, supers, -1) * scale.unsqueeze(-1)).view(rows, -1)


def _write_nf4(packed: PackedTensor, out: Tensor) -> None:
    codes, absmax = packed.parts["codes"], packed.parts["absmax"]
    if out.device.type in ("cpu", "cuda"):
        kernel = _nf4_kernel()
        out.copy_(kernel(codes.contiguous(), absmax.contiguous(), packed.group_size, "nf4", out.shape, out.dtype))
    else:
        out.copy_(_nf4_by_table(codes, absmax).view(out.shape))


def _nf4_by_table(codes: Tensor, absmax: Tensor) -> Tensor:
    """The same values by plain operations, for devices without a kernel; (rows, blocks, group) float32."""
    from bitsandbytes.functional import get_4bit_type

    table = get_4bit_type("nf4", device="cpu").to(codes.device)
    values = torch.stack((table[(codes >> 4).long()], table[(codes & 0x0F).long()]), dim=-1)  # (rows, i/2, 2)
    return values.view(*absmax.shape, -1) * absmax.unsqueeze(-1)


def _nf4_kernel():  # type: ignore[no-untyped-def]  # a torch operator overload
    # bitsandbytes warns about an optional package for a product that is not used here.
    logging.getLogger("bitsandbytes.backends.cpu.ops").setLevel(logging.ERROR)
    import bitsandbytes  # noqa: F401  registers the operator

    return torch.ops.bitsandbytes.dequantize_4bit.default


_WRITERS = {"int8": _write_int8, "nf4": _write_nf4, "affine4": _write_affine, "affine8": _write_affine}
