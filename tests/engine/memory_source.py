"""A `WeightSource` over tensors in memory, and the plain model with the same dequantized weights to compare with."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace

import torch
from torch import Tensor
from transformers import AutoModelForCausalLM, PretrainedConfig, PreTrainedModel

from pocketft.engine.packed import PackedTensor, dequantize, pack_nibbles
from pocketft.engine.weights import BlockSpec, TensorSpec

Pack = Callable[[Tensor], PackedTensor]


def as_f32(weight: Tensor) -> PackedTensor:
    return PackedTensor("f32", tuple(weight.shape), {"data": weight.clone()})


def as_affine4(weight: Tensor) -> PackedTensor:
    """A crude 4-bit packing in groups of 16: the values differ from `weight`, which is the point."""
    grouped = weight.view(weight.shape[0], -1, 16)
    low, high = grouped.amin(-1), grouped.amax(-1)
    scale, minimum = ((high - low) / 15).clamp_min(1e-6).half(), low.half()
    codes = ((grouped - minimum[..., None].float()) / scale[..., None].float()).round().clamp(0, 15)
    packed = pack_nibbles(codes.to(torch.uint8).view(weight.shape), 16)
    return PackedTensor("affine4", tuple(weight.shape), {"codes": packed, "scale": scale, "minimum": minimum}, 16)


def unpacked(packed: PackedTensor) -> Tensor:
    out = torch.empty(packed.shape)
    dequantize(packed, out)
    return out


class MemorySource:
    def __init__(self, model: PreTrainedModel, pack: Pack) -> None:
        self.blocks: dict[str, dict[str, PackedTensor]] = {}
        tied = model.config.tie_word_embeddings
        for name, weight in model.state_dict().items():
            block = _block_of(name)
            if block == "head" and tied:
                continue
            packed = pack(weight.float()) if weight.dim() == 2 else as_f32(weight.float())
            self.blocks.setdefault(block, {})[name] = packed

    def block_names(self) -> Sequence[str]:
        return list(self.blocks)

    def block_spec(self, name: str) -> BlockSpec:
        tensors = tuple(TensorSpec(n, t.kind, t.shape, (), t.group_size) for n, t in self.blocks[name].items())
        return BlockSpec(name, sum(t.nbytes for t in self.blocks[name].values()), tensors)

    def read_block(self, name: str, buffer: Tensor | None = None) -> dict[str, PackedTensor]:
        """Through `buffer` where one is given, as the disk does it, so that a late reader sees what was overwritten."""
        if buffer is None:
            return self.blocks[name]
        placed, offset = {}, 0
        for tensor_name, tensor in self.blocks[name].items():
            parts = {}
            for part_name, part in tensor.parts.items():
                raw = part.contiguous().view(-1).view(torch.uint8)
                view = buffer[offset : offset + raw.numel()]
                view.copy_(raw)
                parts[part_name] = (
                    view.clone().view(part.dtype).view(part.shape)
                    if offset % 8
                    else view.view(part.dtype).view(part.shape)
                )
                offset += raw.numel()
            placed[tensor_name] = replace(tensor, parts=parts)
        return placed

    def read_rows(self, name: str, tensor_name: str, ranges: Sequence[tuple[int, int]]) -> PackedTensor:
        return self.blocks[name][tensor_name].take(torch.cat([torch.arange(*one) for one in ranges]))

    def read_tensors(self, name: str, tensor_names: Sequence[str]) -> dict[str, PackedTensor]:
        return {n: self.blocks[name][n] for n in tensor_names}


def plain_model(config: PretrainedConfig, source: MemorySource) -> PreTrainedModel:
    """transformers' own model, eager attention, fp32, on exactly the values that the source's tensors stand for."""
    model = AutoModelForCausalLM.from_config(config, attn_implementation="eager", dtype=torch.float32)
    state = {name: unpacked(t) for block in source.blocks.values() for name, t in block.items()}
    missing, unexpected = model.load_state_dict(state, strict=False)
    assert not unexpected and set(missing) <= {"lm_head.weight"}
    model.tie_weights()
    return model.eval()


def _block_of(name: str) -> str:
    if ".layers." in name:
        return f"block.{name.split('.layers.')[1].split('.')[0]}"
    if "embed_tokens" in name:
        return "embedding"
    return "head" if name.startswith("lm_head") else "norm"
