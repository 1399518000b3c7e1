"""What one block needs while it computes, found by running it on shapes alone (`live_bytes.py`), for any architecture
alike.

Knows the engine; nothing of caps or choices.
"""

from __future__ import annotations

import copy
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from peft import LoraConfig
from torch import Tensor
from transformers import PretrainedConfig

from pocketft.engine.attention import TiledMask
from pocketft.engine.lora import attach_lora, lora_parameters
from pocketft.engine.packed import PackedTensor
from pocketft.engine.skeleton import Skeleton, build_skeleton, call_arguments, on_device
from pocketft.engine.weights import BlockSpec, WeightSource
from pocketft.memory.live_bytes import LiveBytes

META = torch.device("meta")


@dataclass(frozen=True)
class Footprint:
    """Bytes for one micro-batch of (B, S) tokens. `forward` and `backward` are peaks on top of what lies there before;
    `kept` is what a block leaves behind when its graph is kept; `arguments` are the masks and tables of all blocks;
    `adapter_numbers` counts the adapter's parameters in the whole model."""

    forward_bytes: int
    backward_bytes: int
    kept_bytes: int
    arguments_bytes: int
    adapter_numbers: int


def measure_footprint(
    config: PretrainedConfig, source: WeightSource, lora: LoraConfig, shape: tuple[int, int], dtype: torch.dtype
) -> Footprint:
    """Run the block of each kind that has the largest adapter, on meta tensors. Reads no weights."""
    skeleton = build_skeleton(config, ShapesOnly(source), dtype, META)
    attach_lora(skeleton.model, copy.deepcopy(lora), seed=0)
    numbers = sum(p.numel() for _, p in lora_parameters(skeleton.model))
    batch, length = shape
    embeds = torch.zeros(1, dtype=dtype).expand(batch, length, config.hidden_size)
    positions = torch.arange(length).expand(batch, -1)
    arguments = call_arguments(skeleton, embeds, positions)
    indices = _largest_of_each_kind(config, skeleton)
    each = [_measure_block(skeleton, i, shape, _arguments_on_meta(arguments[i]), dtype) for i in indices]
    return Footprint(
        max(forward for forward, _, _ in each),
        max(backward for _, backward, _ in each),
        max(kept for _, _, kept in each),
        _distinct_bytes(arguments),
        numbers,
    )


def _measure_block(
    skeleton: Skeleton, index: int, shape: tuple[int, int], arguments: dict[str, Any], dtype: torch.dtype
) -> tuple[int, int, int]:
    layer, block = skeleton.layers[index], skeleton.blocks[index]
    width = skeleton.decoder.config.hidden_size
    for weights in block.groups:
        weights.group.weight = torch.empty(weights.shape, dtype=dtype, device=META)
    hidden = torch.empty(*shape, width, dtype=dtype, device=META)
    with torch.no_grad(), LiveBytes() as forward:
        layer(hidden, **arguments)
    gradient = torch.empty_like(hidden)
    hidden.requires_grad_()
    end = skeleton.block_ends[index]
    with LiveBytes() as kept:
        output = layer(hidden, **arguments)
    kept_bytes = kept.current
    if end is not None:
        end.output_unused = True
    with LiveBytes() as backward:
        output = layer(hidden, **arguments)
        output.backward(gradient)
    del output
    return forward.peak, backward.peak, kept_bytes


class ShapesOnly:
    """A `WeightSource` with the shapes of another and no numbers."""

    def __init__(self, source: WeightSource) -> None:
        self._source = source

    def block_names(self) -> Sequence[str]:
        return self._source.block_names()

    def block_spec(self, name: str) -> BlockSpec:
        return self._source.block_spec(name)

    def read_block(self, name: str, buffer: Tensor | None = None) -> dict[str, PackedTensor]:
        return {t.name: _empty(t.shape) for t in self.block_spec(name).tensors}

    def read_tensors(self, name: str, tensor_names: Sequence[str]) -> dict[str, PackedTensor]:
        return {t.name: _empty(t.shape) for t in self.block_spec(name).tensors if t.name in tensor_names}


def _empty(shape: tuple[int, ...]) -> PackedTensor:
    return PackedTensor("bf16", shape, {"data": torch.empty(shape, dtype=torch.bfloat16, device=META)})


def _largest_of_each_kind(config: PretrainedConfig, skeleton: Skeleton) -> list[int]:
    kinds = getattr(config, "layer_types", None) or ["same"] * len(skeleton.layers)
    largest: dict[str, tuple[int, int]] = {}
    for index, (kind, block) in enumerate(zip(kinds, skeleton.blocks, strict=True)):
        loras = [m.lora for weights in block.groups for m in weights.group.members if m.lora is not None]
        numbers = sum(lora.a.numel() + lora.b.numel() for lora in loras)
        largest[kind] = max(largest.get(kind, (-1, 0)), (numbers, index))
    return [index for _, index in largest.values()]


def _arguments_on_meta(arguments: Mapping[str, Any]) -> dict[str, Any]:
    return {name: on_device(value, META) for name, value in arguments.items()}


def _distinct_bytes(arguments: Sequence[Mapping[str, Any]]) -> int:
    """Each tensor once, however many blocks are called with it."""
    found: dict[int, int] = {}

    def visit(value: Any) -> None:
        if isinstance(value, Tensor):
            found[value.data_ptr()] = value.untyped_storage().nbytes()
        elif isinstance(value, TiledMask):
            visit(value.blocked)
        elif isinstance(value, (tuple, list)):
            for item in value:
                visit(item)

    for one in arguments:
        for value in one.values():
            visit(value)
    return sum(found.values())
