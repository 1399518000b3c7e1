"""A base as the peers can load it: the values of pocketft's block store, rounded to bf16, as a safetensors folder.

pocketft computes with the same bf16 values, so all start from the same weights. One block in memory at a time.
"""

from __future__ import annotations

import json
import shutil
from pathlib import Path

from benchmark.places import WEIGHTS


def peer_weights(model: str) -> Path:
    """The folder for a base model, written if it is not there yet."""
    import torch
    from safetensors.torch import save_file

    from pocketft.engine.packed import dequantize
    from pocketft.models.base_model import resolve_base

    base = resolve_base(model)
    folder = WEIGHTS / f"{base.store.folder.name}-{base.artifact_sha256[:12]}"
    if folder.exists():
        return folder
    temporary = folder.with_suffix(".tmp")
    shutil.rmtree(temporary, ignore_errors=True)
    shutil.copytree(base.config_dir, temporary)
    index: dict[str, str] = {}
    for name in base.store.block_names():
        tensors = {}
        for tensor_name, packed in base.store.read_block(name).items():
            tensors[tensor_name] = torch.empty(packed.shape, dtype=torch.bfloat16)
            dequantize(packed, tensors[tensor_name])
        file = f"model-{name}.safetensors"
        save_file(tensors, temporary / file, metadata={"format": "pt"})
        index |= dict.fromkeys(tensors, file)
    written = {"metadata": {}, "weight_map": index}
    (temporary / "model.safetensors.index.json").write_text(json.dumps(written), encoding="utf-8")
    temporary.rename(folder)
    return folder
