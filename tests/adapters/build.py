"""Adapters for the tests: in memory from random factors, and on disk as PEFT writes them."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from torch import Tensor

from pocketft.adapters.state import AdapterInfo, AdapterState, BaseIdentity, Factors, MemoryAdapter, ModuleInfo

BASE = BaseIdentity(
    name="smollm2-135m", quantization="gguf", artifact_sha256="a" * 64, tokenizer_sha256="b" * 64, architecture="llama"
)
SHAPES = {"model.layers.0.self_attn.q_proj": (24, 20), "model.layers.1.mlp.down_proj": (32, 16)}


def random_factors(seed: int, rank: int, width_in: int, width_out: int, scaling: float = 2.0) -> Factors:
    draw = torch.Generator().manual_seed(seed)
    a = torch.randn(rank, width_in, generator=draw)
    b = torch.randn(width_out, rank, generator=draw)
    return Factors(a, b, scaling)


def adapter(
    seed: int,
    rank: int = 4,
    scaling: float = 2.0,
    shapes: Mapping[str, tuple[int, int]] = SHAPES,
    label: str | None = None,
    **provenance: Any,
) -> MemoryAdapter:
    tensors = {
        name: random_factors(1000 * seed + index, rank, *shape, scaling)
        for index, (name, shape) in enumerate(shapes.items())
    }
    return holding(tensors, label or f"adapter-{seed}", **provenance)


def holding(tensors: Mapping[str, Factors], label: str = "adapter", **provenance: Any) -> MemoryAdapter:
    modules = {
        name: ModuleInfo(name, len(f.a), f.scaling * len(f.a), f.scaling, f.a.shape[1], f.b.shape[0])
        for name, f in tensors.items()
    }
    info = AdapterInfo(label, "lora", BASE, modules, provenance=provenance)
    return MemoryAdapter(info, tensors)


def changed(state: MemoryAdapter, **fields: Any) -> MemoryAdapter:
    """The same numbers with other facts about them."""
    return replace(state, info=replace(state.info, **fields))


def dense(state: AdapterState) -> dict[str, Tensor]:
    """Module to the whole update, (out, in) in float64."""
    return {name: dense_update(state.factors(name)) for name in state.info.modules}


def dense_update(factors: Factors) -> Tensor:
    return factors.scaling * factors.b.double() @ factors.a.double()


def distance(one: Mapping[str, Tensor], other: Mapping[str, Tensor]) -> float:
    """|one - other| / |other| over all modules; a module that is absent is zero."""
    names = sorted(set(one) | set(other))
    zero = torch.zeros(())
    gap = sum(float(((one.get(n, zero) - other.get(n, zero)) ** 2).sum()) for n in names)
    return (gap / sum(float((other[n] ** 2).sum()) for n in names if n in other)) ** 0.5


def mean(states: list[MemoryAdapter], weights: list[float] | None = None) -> dict[str, Tensor]:
    """The weighted mean of the dense updates."""
    weights = weights or [1.0] * len(states)
    total: dict[str, Tensor] = {}
    for state, weight in zip(states, weights, strict=True):
        for name, update in dense(state).items():
            total[name] = total.get(name, torch.zeros(())) + weight / sum(weights) * update
    return total


def write(
    folder: Path,
    state: MemoryAdapter,
    *,
    dtype: torch.dtype = torch.float32,
    config: Mapping[str, Any] | None = None,
    provenance: Mapping[str, Any] | None = None,
) -> Path:
    """A PEFT folder with the numbers of `state`; alpha is chosen so that alpha / r is its scaling."""
    folder.mkdir(parents=True, exist_ok=True)
    tensors = {}
    for name, module in state.info.modules.items():
        for tensor_name, tensor in zip(
            module.tensor_names(), (state.tensors[name].a, state.tensors[name].b), strict=True
        ):
            tensors[tensor_name] = tensor.to(dtype).contiguous()
    tensors.update({name: tensor.contiguous() for name, tensor in state.extra_tensors.items()})
    save_file(tensors, folder / "adapter_model.safetensors", {"format": "pt"})
    first = next(iter(state.info.modules.values()))
    values = {
        "peft_type": "LORA",
        "task_type": "CAUSAL_LM",
        "base_model_name_or_path": BASE.name,
        "r": first.rank,
        "lora_alpha": first.alpha,
        "use_rslora": False,
        "target_modules": sorted({name.rpartition(".")[2] for name in state.info.modules}),
        "bias": "none",
        **(config or {}),
    }
    (folder / "adapter_config.json").write_text(json.dumps(values))
    if provenance is not None:
        (folder / "pocketft.json").write_text(json.dumps({"format": 1, "kind": "lora", **provenance}))
    return folder
