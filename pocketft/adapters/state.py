"""What an adapter is, wherever it lives: which base it belongs to, which modules it changes, and by how much.

One module's update is `scaling · B @ A`. Everything that sets the scaling (rank, alpha, their patterns, rsLoRA) is
folded into that one number by whoever builds the state; no rule of merging looks at a configuration again. Knows
tensors and PEFT's names for them, and nothing of files.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal, Protocol

from torch import Size, Tensor

PEFT_PREFIX = "base_model.model."

ModuleKind = Literal["linear", "embedding"]


@dataclass(frozen=True)
class BaseIdentity:
    """What is known of the base that an adapter was trained on; None is unknown."""

    name: str | None = None
    revision: str | None = None
    quantization: str | None = None
    artifact_sha256: str | None = None
    tokenizer_sha256: str | None = None
    architecture: str | None = None
    licence: str | None = None


@dataclass(frozen=True)
class ModuleInfo:
    """One adapted module; `scaling` is what multiplies B @ A, alpha / rank or alpha / sqrt(rank)."""

    name: str  # as in the base: "model.layers.0.self_attn.q_proj"
    rank: int
    alpha: float
    scaling: float
    in_features: int
    out_features: int
    kind: ModuleKind = "linear"

    @property
    def parameters(self) -> int:
        return self.rank * (self.in_features + self.out_features)

    def tensor_names(self) -> tuple[str, str]:
        """PEFT's names of A and B. The factors of an embedding are bare parameters, without ".weight"."""
        if self.kind == "embedding":
            return f"{PEFT_PREFIX}{self.name}.lora_embedding_A", f"{PEFT_PREFIX}{self.name}.lora_embedding_B"
        return f"{PEFT_PREFIX}{self.name}.lora_A.weight", f"{PEFT_PREFIX}{self.name}.lora_B.weight"


@dataclass(frozen=True)
class AdapterInfo:
    """Everything about an adapter but its numbers.

    `extras` are whole tensors saved beside the factors (biases, modules_to_save) with their shapes, by PEFT name.
    `problems` says why the adapter is more, or less, than a plain LoRA: each one forbids merging and export, none
    forbids looking.
    """

    label: str
    kind: str  # "lora", or the PEFT type of something else
    base: BaseIdentity
    modules: Mapping[str, ModuleInfo]
    extras: Mapping[str, tuple[int, ...]] = field(default_factory=dict)
    config: Mapping[str, Any] = field(default_factory=dict)
    provenance: Mapping[str, Any] = field(default_factory=dict)
    problems: tuple[str, ...] = ()
    sha256: str = ""
    size_bytes: int = 0

    @property
    def max_rank(self) -> int:
        return max((module.rank for module in self.modules.values()), default=0)

    @property
    def parameters(self) -> int:
        extra = sum(Size(shape).numel() for shape in self.extras.values())
        return extra + sum(module.parameters for module in self.modules.values())


@dataclass(frozen=True)
class Factors:
    """One module's update, `scaling · b @ a`, in float32."""

    a: Tensor  # (rank, in_features)
    b: Tensor  # (out_features, rank)
    scaling: float


class AdapterState(Protocol):
    """An adapter whose numbers can be asked for one module at a time, so that many fit in little memory."""

    @property
    def info(self) -> AdapterInfo: ...

    def factors(self, module: str) -> Factors:
        """The factors of a module named in `info.modules`."""

    def extra(self, name: str) -> Tensor:
        """The float32 tensor of a name in `info.extras`."""


@dataclass(frozen=True)
class MemoryAdapter:
    """An adapter held in memory: what a live round receives, and what tests build."""

    info: AdapterInfo
    tensors: Mapping[str, Factors]
    extra_tensors: Mapping[str, Tensor] = field(default_factory=dict)

    def factors(self, module: str) -> Factors:
        return self.tensors[module]

    def extra(self, name: str) -> Tensor:
        return self.extra_tensors[name]


def natural_order(name: str) -> list[tuple[bool, int, str]]:
    """Sorting key that puts layer 2 before layer 10."""
    return [(part.isdecimal(), int(part) if part.isdecimal() else 0, part) for part in name.split(".")]


def folded(state: AdapterState) -> dict[str, tuple[Tensor, Tensor]]:
    """Module to A (rank, in) and B (out, rank) with the scaling inside B, all in memory."""
    found = {name: state.factors(name) for name in state.info.modules}
    return {name: (factors.a, factors.b * factors.scaling) for name, factors in found.items()}
