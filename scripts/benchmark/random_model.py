"""Models of larger shapes with random weights, written straight into a block store, a few rows at a time.

Memory and speed do not depend on what the weights are. Matrices are packed as GGUF's Q4_1 (groups of 32, float16 scale
and minimum), a head that is shared with the embedding as Q8_0, an own head likewise: what files of these models hold.
The store lies where pocketft finds a model that was prepared from a file, so the ordinary commands take it by name.
"""

from __future__ import annotations

import shutil
import sys
from collections.abc import Mapping
from functools import partial
from typing import Any

import torch
from torch import Tensor

from benchmark.places import HOME
from pocketft.errors import ModelError
from pocketft.files import sha256_of
from pocketft.models.base_model import resolve_base
from pocketft.models.block_store import BlockStore, build_store
from pocketft.models.layout import Layout
from pocketft.models.location import locate_prepared
from pocketft.models.source import SourceTensor, empty_model, into_blocks, model_layout

_WRITER = 1  # raise when what is written changes
_GROUP = 32
_DEVIATION = 0.02  # of a weight, as such models are initialised
_TOKENIZER_OF = "smollm2-135m"  # its tokens are within every vocabulary below

_QWEN = {"model_type": "qwen2", "vocab_size": 151936, "tie_word_embeddings": True}
_LLAMA = {"model_type": "llama", "vocab_size": 128256}
SHAPES: dict[str, dict[str, Any]] = {
    "qwen2.5-0.5b-shape": {**_QWEN, "hidden_size": 896, "num_hidden_layers": 24, "num_attention_heads": 14}
    | {"num_key_value_heads": 2, "intermediate_size": 4864},
    "llama-3.2-1b-shape": {**_LLAMA, "hidden_size": 2048, "num_hidden_layers": 16, "num_attention_heads": 32}
    | {"num_key_value_heads": 8, "intermediate_size": 8192, "head_dim": 64, "tie_word_embeddings": True},
    "qwen2.5-3b-shape": {**_QWEN, "hidden_size": 2048, "num_hidden_layers": 36, "num_attention_heads": 16}
    | {"num_key_value_heads": 2, "intermediate_size": 11008},
    "llama-3.1-8b-shape": {**_LLAMA, "hidden_size": 4096, "num_hidden_layers": 32, "num_attention_heads": 32}
    | {"num_key_value_heads": 8, "intermediate_size": 14336, "head_dim": 128, "tie_word_embeddings": False},
}


def ensure_model(name: str) -> None:
    """Write the store of a shape where there is none yet; of other models nothing."""
    if name in SHAPES and not _is_written(name):
        print(f"Writing random weights for {name}", file=sys.stderr, flush=True)
        _write(name)


def _source(name: str) -> str:
    """The file that the store says it was made from; it never existed."""
    return str(HOME / "shapes" / f"{name}.gguf")


def _is_written(name: str) -> bool:
    try:
        store = BlockStore(locate_prepared(_source(name)).store("gguf"))
    except ModelError:
        return False
    return store.info.get("writer") == _WRITER


def _write(name: str) -> None:
    from transformers import AutoConfig

    folder = locate_prepared(_source(name)).store("gguf")
    config_dir = folder.with_suffix(".config")
    shutil.rmtree(config_dir, ignore_errors=True)
    shutil.copytree(resolve_base(_TOKENIZER_OF).config_dir, config_dir)
    shape = dict(SHAPES[name])
    config = AutoConfig.for_model(shape.pop("model_type"), **shape, max_position_embeddings=32768, dtype="bfloat16")
    config.save_pretrained(config_dir)
    layout = model_layout(empty_model(config))
    tensors = {
        tensor: _random(tensor, layout.shapes[tensor], layout.roles[tensor], bool(config.tie_word_embeddings))
        for tensor in layout.block_of
    }
    info: dict[str, Any] = {
        "name": _source(name),
        "kind": "gguf",
        "artifact_sha256": "0" * 64,
        "quantization": "gguf",
        "architecture": config.model_type,
        "tokenizer_sha256": sha256_of(config_dir / "tokenizer.json"),
        "licence": "unknown",
        "revision": None,
        "files": [],
        "writer": _WRITER,
    }
    try:
        build_store(folder, into_blocks(layout, tensors, name), info, config_dir)
    finally:
        shutil.rmtree(config_dir, ignore_errors=True)


def _random(name: str, shape: tuple[int, ...], role: str, tied: bool) -> SourceTensor:
    if len(shape) != 2 or role == "other":
        value = 0.0 if name.endswith("bias") else 1.0
        return SourceTensor(name, shape, Layout("f32"), partial(_constant, shape, value))
    is_head = role == "head" or (role == "embedding" and tied)
    packing = Layout("affine8", _GROUP, signed=True) if is_head else Layout("affine4", _GROUP, has_minimum=True)
    return SourceTensor(name, shape, packing, partial(_codes, packing, shape))


def _constant(shape: tuple[int, ...], value: float, start: int, stop: int) -> Mapping[str, Tensor]:
    return {"data": torch.full((stop - start, *shape[1:]), value)}


def _codes(packing: Layout, shape: tuple[int, ...], start: int, stop: int) -> Mapping[str, Tensor]:
    """Even draws of a code's range, scaled to the deviation that weights have; scales differ a little by group."""
    parts: dict[str, Tensor] = {}
    steps = 16 if packing.kind == "affine4" else 256
    step = _DEVIATION * 12**0.5 / steps
    for part, (dtype, whole) in packing.parts(shape).items():
        size = (stop - start, *whole[1:])
        if part == "codes":
            parts[part] = torch.randint(0, 256, size, dtype=torch.uint8).view(dtype)
        elif part == "scale":
            parts[part] = (torch.rand(size) * 0.2 + 0.9).mul_(step).to(dtype)
    if packing.has_minimum:
        parts["minimum"] = parts["scale"] * -(steps - 1) / 2
    return parts
