"""What one block needs and costs while it computes, found by running it on shapes alone (`tally.py`), for any
architecture alike.

Knows the engine; nothing of caps or choices.
"""

from __future__ import annotations

import copy
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from peft import LoraConfig
from torch import Tensor
from transformers import PretrainedConfig

from pocketft.engine.attention import TiledMask, keeping_probabilities
from pocketft.engine.gradient import backward_from
from pocketft.engine.lora import attach_lora, lora_parameters
from pocketft.engine.loss import LossTiles, head_loss_and_grad
from pocketft.engine.packed import PackedTensor
from pocketft.engine.skeleton import Skeleton, build_skeleton, call_arguments, on_device
from pocketft.engine.weights import BlockSpec, WeightSource
from pocketft.memory.tally import Cost, Product, Tally

META = torch.device("meta")


@dataclass(frozen=True)
class Footprint:
    """For one micro-batch of (B, S) tokens.

    `forward_bytes`, `backward_bytes` and `again_bytes` (both once more) are a block's peaks on top of what lies there
    before, for the backward pass its graph. `kept_bytes` is that graph, but for the block's output, which is the next
    one's input; `arguments_bytes` are the masks and tables of all blocks; `adapter_numbers` counts the adapter's
    parameters in the whole model, `kernels` the kinds of matrix products in all blocks. The costs are those of all
    blocks together: `forward`, `recompute` (forward again, without what nobody reads) and `backward` alone.
    """

    forward_bytes: int
    backward_bytes: int
    again_bytes: int
    kept_bytes: int
    arguments_bytes: int
    adapter_numbers: int
    kernels: int
    forward: Cost
    recompute: Cost
    backward: Cost


@dataclass(frozen=True)
class _Block:
    forward_bytes: int
    backward_bytes: int
    again_bytes: int
    kept_bytes: int
    products: frozenset[Product]
    forward: Cost
    recompute: Cost
    backward: Cost


def measure_footprints(
    config: PretrainedConfig,
    source: WeightSource,
    lora: LoraConfig,
    length: int,
    ways: Iterable[tuple[int, bool]],
    dtype: torch.dtype,
) -> dict[tuple[int, bool], Footprint]:
    """For rows of `length` tokens in each of `ways`: how many rows together, and whether attention is kept. Reads no
    weights. The model is described once for all, which takes longer than all measuring.
    """
    skeleton = build_skeleton(config, ShapesOnly(source), dtype, META)
    attach_lora(skeleton.model, copy.deepcopy(lora), seed=0)
    return {(batch, keep): _measure(skeleton, (batch, length), keep, dtype) for batch, keep in ways}


def _measure(skeleton: Skeleton, shape: tuple[int, int], keep_attention: bool, dtype: torch.dtype) -> Footprint:
    """Run the block of each kind that has the largest adapter, on meta tensors."""
    config = skeleton.decoder.config
    numbers = sum(p.numel() for _, p in lora_parameters(skeleton.model))
    embeds = torch.zeros(1, dtype=dtype).expand(*shape, config.hidden_size)
    positions = torch.arange(shape[1]).expand(shape)
    arguments = call_arguments(skeleton, embeds, positions)
    called = [keeping_probabilities(one) for one in arguments] if keep_attention else arguments
    kinds = _largest_of_each_kind(config, skeleton)
    each = [(_measure_block(skeleton, i, shape, on_meta(called[i]), dtype), count) for i, count in kinds]
    return Footprint(
        max(block.forward_bytes for block, _ in each),
        max(block.backward_bytes for block, _ in each),
        max(block.again_bytes for block, _ in each),
        max(block.kept_bytes for block, _ in each),
        _distinct_bytes(arguments),
        numbers,
        len(frozenset().union(*(block.products for block, _ in each))),
        sum((block.forward * count for block, count in each), Cost()),
        sum((block.recompute * count for block, count in each), Cost()),
        sum((block.backward * count for block, count in each), Cost()),
    )


def _measure_block(
    skeleton: Skeleton, index: int, shape: tuple[int, int], arguments: dict[str, Any], dtype: torch.dtype
) -> _Block:
    layer, block = skeleton.layers[index], skeleton.blocks[index]
    width = skeleton.decoder.config.hidden_size
    for weights in block.groups:
        weights.group.weight = torch.empty(weights.shape, dtype=dtype, device=META)
    hidden = torch.empty(*shape, width, dtype=dtype, device=META)
    with torch.no_grad(), Tally() as forward:
        layer(hidden, **arguments)
    gradient = torch.empty_like(hidden)
    hidden.requires_grad_()
    end = skeleton.block_ends[index]
    with Tally() as kept:
        output = layer(hidden, **arguments)
    kept_bytes = kept.current - output.untyped_storage().nbytes()
    if end is not None:
        end.output_unused = True
    with Tally() as both:
        output = layer(hidden, **arguments)
        recompute = both.cost
        backward_from(output, gradient)
    del output
    if end is not None:
        end.output_unused = False
    for parameter in layer.parameters():
        parameter.grad = None
    backward = both.cost + recompute * -1.0
    products = frozenset(forward.products | both.products)
    return _Block(
        forward.peak, both.peak - kept_bytes, both.peak, kept_bytes, products, forward.cost, recompute, backward
    )


def loss_cost(hidden_size: int, tiles: LossTiles, dtype: torch.dtype) -> Cost:
    """Of one visit of the loss to a tile, gradient included."""
    head = _empty((tiles.vocab_rows, hidden_size))
    hidden = torch.empty(tiles.tokens, hidden_size, dtype=dtype, device=META)
    targets = torch.empty(tiles.tokens, dtype=torch.int64, device=META)
    with Tally() as tally:
        head_loss_and_grad(hidden, targets, head, tiles)
    return tally.cost


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

    def read_rows(self, name: str, tensor_name: str, ranges: Sequence[tuple[int, int]]) -> PackedTensor:
        raise NotImplementedError("shapes have no rows")

    def read_tensors(self, name: str, tensor_names: Sequence[str]) -> dict[str, PackedTensor]:
        return {t.name: _empty(t.shape) for t in self.block_spec(name).tensors if t.name in tensor_names}


def _empty(shape: tuple[int, ...]) -> PackedTensor:
    return PackedTensor("bf16", shape, {"data": torch.empty(shape, dtype=torch.bfloat16, device=META)})


def _largest_of_each_kind(config: PretrainedConfig, skeleton: Skeleton) -> list[tuple[int, int]]:
    """Of each kind of layer, the index of one and how many there are."""
    kinds = getattr(config, "layer_types", None) or ["same"] * len(skeleton.layers)
    largest: dict[str, tuple[int, int]] = {}
    for index, (kind, block) in enumerate(zip(kinds, skeleton.blocks, strict=True)):
        loras = [m.lora for weights in block.groups for m in weights.group.members if m.lora is not None]
        numbers = sum(lora.a.numel() + lora.b.numel() for lora in loras)
        largest[kind] = max(largest.get(kind, (-1, 0)), (numbers, index))
    return [(index, kinds.count(kind)) for kind, (_, index) in largest.items()]


def on_meta(arguments: Mapping[str, Any]) -> dict[str, Any]:
    return {name: on_device(value, META) for name, value in arguments.items()}


def _distinct_bytes(arguments: Sequence[Mapping[str, Any]]) -> int:
    """Each tensor once, however many blocks are called with it."""
    found: dict[int, int] = {}

    def visit(value: Any) -> None:
        if isinstance(value, Tensor):
            found[value.data_ptr()] = value.untyped_storage().nbytes()
        elif isinstance(value, TiledMask):
            found[id(value)] = value.most_bytes
        elif isinstance(value, (tuple, list)):
            for item in value:
                visit(item)

    for one in arguments:
        for value in one.values():
            visit(value)
    return sum(found.values())
