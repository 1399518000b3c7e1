"""A base model as a source of packed rows: what every kind of file is turned into before it becomes a block store.

Knows which block a parameter belongs to, from the structure of the transformers model alone. `gguf_source.py` and
`hf_source.py` make these; `block_store.py` writes them out.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from pocketft.errors import ModelError
from pocketft.models.layout import Layout


@dataclass(frozen=True)
class SourceTensor:
    """One parameter. `read_rows(start, stop)` gives the packed parts of those rows, read from the source then."""

    name: str  # of the parameter in the transformers model
    shape: tuple[int, ...]
    layout: Layout
    read_rows: Callable[[int, int], Mapping[str, Tensor]]


@dataclass(frozen=True)
class SourceBlock:
    name: str  # "embedding", "block.0" … "norm", "head"
    tensors: tuple[SourceTensor, ...]


@dataclass(frozen=True)
class ModelLayout:
    """The parameters of a transformers model, shared ones once, and the block each belongs to."""

    block_of: Mapping[str, str]  # parameter -> block, in the order of a forward pass
    shapes: Mapping[str, tuple[int, ...]]
    roles: Mapping[str, str]  # "embedding" | "head" | "linear" | "other"


def empty_model(config: Any) -> Any:
    """The transformers model of `config` on the meta device: structure and names, no weights."""
    from accelerate import init_empty_weights
    from transformers import AutoModelForCausalLM

    with init_empty_weights(include_buffers=True):
        model = AutoModelForCausalLM.from_config(config)
    model.tie_weights()
    return model


def model_layout(model: Any) -> ModelLayout:
    """Sort parameters into blocks: the one list of decoder layers, what the embeddings and the head hold, the rest."""
    layers_name = _decoder_layers(model)
    modules = dict(model.named_modules())
    embedding = model.get_input_embeddings()
    head = model.get_output_embeddings()
    depth = len(modules[layers_name])
    blocks: dict[str, list[str]] = {"embedding": [], **{f"block.{i}": [] for i in range(depth)}, "norm": [], "head": []}
    roles, shapes = {}, {}
    for name, parameter in model.named_parameters():  # shared parameters come once, under their first name
        owner = modules[name.rpartition(".")[0]]
        is_matrix = isinstance(owner, torch.nn.Linear) and parameter.dim() == 2
        if owner is embedding:
            block, role = "embedding", "embedding"
        elif owner is head:
            block, role = "head", "head" if is_matrix else "other"
        elif name.startswith(layers_name + "."):
            block, role = f"block.{name[len(layers_name) + 1 :].split('.')[0]}", "linear" if is_matrix else "other"
        else:
            block, role = "norm", "other"
        blocks[block].append(name)
        roles[name], shapes[name] = role, tuple(parameter.shape)
    block_of = {name: block for block, names in blocks.items() for name in names}
    return ModelLayout(block_of, shapes, roles)


def _decoder_layers(model: Any) -> str:
    depth = model.config.num_hidden_layers
    found = [
        name
        for name, module in model.named_modules()
        if isinstance(module, torch.nn.ModuleList) and len(module) == depth and name.count(".") <= 1
    ]
    if len(found) != 1:
        raise ModelError(
            f"{type(model).__name__} is not a plain stack of decoder layers; choose a decoder-only language model "
            "such as Llama, Mistral, Qwen, Gemma or Phi"
        )
    return found[0]


def into_blocks(layout: ModelLayout, tensors: Mapping[str, SourceTensor], where: str) -> Sequence[SourceBlock]:
    """Group `tensors`, checking that every parameter of the model is there with the right shape."""
    missing = [name for name in layout.block_of if name not in tensors]
    if missing:
        raise ModelError(
            f"{where} lacks {len(missing)} of the model's tensors (first: {missing[0]}); fetch or convert it again"
        )
    blocks: dict[str, list[SourceTensor]] = {}
    for name, block in layout.block_of.items():
        if tensors[name].shape != layout.shapes[name]:
            raise ModelError(
                f"{where}: tensor {name} has shape {tensors[name].shape}, its configuration says "
                f"{layout.shapes[name]}; fetch or convert it again"
            )
        blocks.setdefault(block, []).append(tensors[name])
    return [SourceBlock(name, tuple(block)) for name, block in blocks.items()]
