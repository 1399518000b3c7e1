"""A tiny base prepared in this process, a random adapter of it, and what the two make together."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import torch

from pocketft.adapters.folder import FolderAdapter, read_adapter
from pocketft.adapters.state import MemoryAdapter
from pocketft.models.base_model import resolve_base
from tests.adapters.build import adapter, dense_update, write
from tests.models.in_process import prepared_store, values


def quiet(event: dict[str, Any]) -> None:
    return None


def random_run(folder: Path, base: Path, seed: int = 0, **config: Any) -> FolderAdapter:
    """An adapter on every linear layer of `base`, as a run folder that knows its base."""
    quantization = "gguf" if base.suffix == ".gguf" else "bf16"
    prepared_store(base, quantization)  # in this process; otherwise another one would be started
    model = resolve_base(str(base))
    shapes = {
        tensor.name.removesuffix(".weight"): (tensor.shape[1], tensor.shape[0])
        for block in model.store.block_names()
        if block.startswith("block.")
        for tensor in model.store.block_spec(block).tensors
        if len(tensor.shape) == 2
    }
    state: MemoryAdapter = adapter(seed, 4, 0.05, shapes)
    record = {
        "name": base.stem,
        "artifact_sha256": model.artifact_sha256,
        "quantization": model.quantization,
        "architecture": model.architecture,
        "tokenizer_sha256": model.tokenizer_sha256,
        "licence": "apache-2.0",
        "revision": None,
    }
    write(folder, state, config=config, provenance={"base": record, "tokens": 1000})
    (folder / "recipe.yaml").write_text(json.dumps({"model": {"name": str(base)}}))
    return read_adapter(folder)


def merged_weights(run: FolderAdapter, base: Path) -> dict[str, torch.Tensor]:
    """Every tensor of base plus adapter in float32, by transformers' names."""
    weights = values(resolve_base(str(base)).store)
    for module in run.info.modules:
        weights[f"{module}.weight"] += dense_update(run.factors(module)).float()
    return weights
