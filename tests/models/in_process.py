"""Preparing a model inside the test's own process: importing transformers once is enough."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import torch

from pocketft.engine.packed import dequantize
from pocketft.files import sha256_of
from pocketft.models.block_store import BlockStore
from pocketft.models.location import locate
from pocketft.models.prepare import prepare


def job_for(name: str, quantization: str) -> dict[str, Any]:
    location = locate(name)
    return {
        "name": location.name,
        "kind": location.kind,
        "path": str(location.path) if location.path else None,
        "quantization": quantization,
        "licence": None,
        "store": str(location.store(quantization)),
    }


def prepared_store(path: Path, quantization: str) -> tuple[BlockStore, list[dict[str, Any]]]:
    """The store of a model file or folder, and the events of preparing it."""
    events: list[dict[str, Any]] = []
    job = job_for(str(path), quantization)
    prepare(job, events.append)
    return BlockStore(Path(job["store"])), events


def values(store: BlockStore) -> dict[str, torch.Tensor]:
    """Every parameter of a store in float32."""
    found = {}
    for block in store.block_names():
        for name, packed in store.read_block(block).items():
            found[name] = torch.empty(packed.shape)
            dequantize(packed, found[name])
    return found


def damaged_blocks(folder: Path) -> list[str]:
    """Names of a store's blocks whose bytes are not those that were written."""
    blocks = json.loads((folder / "index.json").read_text())["blocks"]
    return [block["name"] for block in blocks if sha256_of(folder / f"{block['name']}.bin") != block["sha256"]]
