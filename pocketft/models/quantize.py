"""Quantizing rows of a base model to `bf16`, `int8` or `nf4` while its store is built.

int8: per row, scale = max|w| / 127, codes = round(w / scale). nf4: bitsandbytes' blockwise NF4 with 64 weights per
block, by bitsandbytes itself. Knows nothing of where rows come from.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping
from dataclasses import replace

import torch
from torch import Tensor

from pocketft.engine.packed import PackedTensor, dequantize
from pocketft.models.layout import NF4_GROUP, Layout
from pocketft.models.source import SourceTensor

QUANTIZATIONS = ("bf16", "int8", "nf4")


def quantized(tensor: SourceTensor, role: str, quantization: str) -> SourceTensor:
    """`tensor` with its matrices packed as `quantization`; vectors keep their own values.

    Under nf4 the embedding and the head become int8 rows: NF4 is made for weights near a normal distribution that
    enter a product, and bitsandbytes leaves those two alone as well. A row that NF4's blocks do not divide stays int8.
    """
    layout = _layout(tensor, role, quantization)
    if layout == tensor.layout:
        return tensor

    def read_rows(start: int, stop: int) -> Mapping[str, Tensor]:
        own = PackedTensor(
            tensor.layout.kind,
            (stop - start, *tensor.shape[1:]),
            tensor.read_rows(start, stop),
            tensor.layout.group_size,
            tensor.layout.zero_point,
        )
        values = torch.empty(own.shape)
        dequantize(own, values)
        return _pack(values, layout)

    return replace(tensor, layout=layout, read_rows=read_rows)


def _layout(tensor: SourceTensor, role: str, quantization: str) -> Layout:
    if role == "other" or len(tensor.shape) != 2:
        return tensor.layout
    if quantization == "bf16":
        return Layout("bf16")
    if quantization == "nf4" and role == "linear" and tensor.shape[1] % NF4_GROUP == 0:
        return Layout("nf4", NF4_GROUP)
    return Layout("int8")


def _pack(values: Tensor, layout: Layout) -> dict[str, Tensor]:
    if layout.kind == "bf16":
        return {"data": values.bfloat16()}
    if layout.kind == "int8":
        scale = values.abs().amax(dim=1, keepdim=True) / 127
        codes = torch.round(values / scale.masked_fill(scale == 0, 1.0)).clamp_(-127, 127)
        return {"codes": codes.to(torch.int8), "scale": scale}
    logging.getLogger("bitsandbytes.backends.cpu.ops").setLevel(logging.ERROR)
    from bitsandbytes.functional import quantize_4bit

    codes, state = quantize_4bit(values, blocksize=layout.group_size, quant_type="nf4")
    rows = values.shape[0]
    return {"codes": codes.view(rows, -1), "absmax": state.absmax.view(rows, -1)}
