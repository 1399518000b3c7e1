"""What there is to know about an adapter without running it: where its update is, how large, how concentrated, whose
it is.

Reads factors one module at a time and keeps numbers only. Says nothing about how good an adapter is; that takes text.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from pocketft.adapters import aggregate, robust
from pocketft.adapters.aggregate import Mixture
from pocketft.adapters.compatibility import differences, unknowns
from pocketft.adapters.state import AdapterInfo, AdapterState

_ALONE = Mixture(torch.ones(1, dtype=torch.float64), torch.ones(1, dtype=torch.float64))


@dataclass(frozen=True)
class ModuleReport:
    name: str
    layer: int | None  # None outside the decoder's blocks
    projection: str  # the last part of the name: "q_proj"
    rank: int
    scaling: float
    norm: float  # Frobenius, of the whole update
    effective_rank: float


@dataclass(frozen=True)
class AdapterReport:
    """`spectrum[i]` is the part of the whole update's energy that the i-th directions of all modules hold."""

    info: AdapterInfo
    modules: tuple[ModuleReport, ...]
    norm: float
    spectrum: tuple[float, ...]
    effective_rank: float
    problems: tuple[str, ...]

    @property
    def layer_norms(self) -> dict[int, float]:
        squares: dict[int, float] = {}
        for module in self.modules:
            if module.layer is not None:
                squares[module.layer] = squares.get(module.layer, 0.0) + module.norm**2
        return {layer: math.sqrt(squares[layer]) for layer in sorted(squares)}

    def to_json(self) -> dict[str, Any]:
        info, base = self.info, self.info.base
        ranks = sorted({module.rank for module in self.modules})
        return {
            "name": info.label,
            "kind": info.kind,
            "base": {
                "name": base.name,
                "revision": base.revision,
                "quantization": base.quantization,
                "artifact_sha256": base.artifact_sha256,
                "tokenizer_sha256": base.tokenizer_sha256,
                "architecture": base.architecture,
                "licence": base.licence,
            },
            "rank": info.max_rank,
            "ranks": ranks,
            "alphas": sorted({module.alpha for module in info.modules.values()}),
            "scalings": sorted({module.scaling for module in info.modules.values()}),
            "use_rslora": info.config.get("use_rslora") is True,
            "targets": targets(info),
            "modules": len(info.modules),
            "parameters": info.parameters,
            "size_bytes": info.size_bytes,
            "sha256": info.sha256,
            "norm": self.norm,
            "effective_rank": self.effective_rank,
            "spectrum": list(self.spectrum),
            "layer_norms": {str(layer): norm for layer, norm in self.layer_norms.items()},
            "module_norms": {module.name: module.norm for module in self.modules},
            "provenance": provenance(info),
            "problems": list(self.problems),
        }


@dataclass(frozen=True)
class Comparison:
    """`cosines` is None where the adapters do not change the same weights."""

    labels: tuple[str, ...]
    cosines: tuple[tuple[float, ...], ...] | None
    reasons: tuple[str, ...]  # why they cannot be merged; empty when they can
    notices: tuple[str, ...]

    @property
    def can_merge(self) -> bool:
        return not self.reasons

    def to_json(self) -> dict[str, Any]:
        return {
            "names": list(self.labels),
            "cosines": None if self.cosines is None else [list(row) for row in self.cosines],
            "can_merge": self.can_merge,
            "reasons": list(self.reasons),
            "notices": list(self.notices),
        }


def inspect_adapter(state: AdapterState) -> AdapterReport:
    """NaN and infinity are a problem of the adapter, not an error: looking is what one does to find them."""
    info = state.info
    modules, problems = [], list(info.problems)
    spectrum = torch.zeros(max(info.max_rank, 1), dtype=torch.float64)
    for name, module in info.modules.items():
        gram = aggregate.gram(*aggregate.stack([state.factors(name)]), [module.rank])
        energy = torch.zeros(0, dtype=torch.float64)
        if gram.a.isfinite().all() and gram.b.isfinite().all():
            energy = aggregate.spectrum(gram, _ALONE)
        else:
            problems.append(f"{name} has NaN or infinity")
        spectrum[: len(energy)] += energy
        modules.append(
            ModuleReport(
                name=name,
                layer=_layer(name),
                projection=name.rpartition(".")[2],
                rank=module.rank,
                scaling=module.scaling,
                norm=float(energy.sum().sqrt()),
                effective_rank=_effective_rank(energy),
            )
        )
    total = float(spectrum.sum())
    weight = [module.norm**2 for module in modules]
    return AdapterReport(
        info=info,
        modules=tuple(modules),
        norm=math.sqrt(total),
        spectrum=tuple((spectrum / total).tolist()) if total else (),
        effective_rank=(
            sum(w * m.effective_rank for w, m in zip(weight, modules, strict=True)) / total if total else 0.0
        ),
        problems=tuple(problems),
    )


def compare(states: Sequence[AdapterState]) -> Comparison:
    infos = [state.info for state in states]
    reasons = differences(infos)
    return Comparison(
        labels=tuple(info.label for info in infos),
        cosines=_cosines(states),
        reasons=tuple(reasons),
        notices=tuple(unknowns(infos)),
    )


def targets(info: AdapterInfo) -> list[str]:
    """The projections that are adapted, by the last part of their names."""
    return list(dict.fromkeys(name.rpartition(".")[2] for name in info.modules))


def provenance(info: AdapterInfo) -> dict[str, Any]:
    """What the adapter records of its making, without what only its maker's machine needed."""
    record = info.provenance
    kept = ("kind", "tokens", "examples", "steps", "metrics", "versions", "merge", "seed")
    found = {key: record[key] for key in kept if record.get(key) not in (None, {}, [])}
    parents = record.get("parents")
    if isinstance(parents, list) and parents:
        found["parents"] = [
            {key: parent.get(key) for key in ("name", "sha256", "weight")}
            for parent in parents
            if isinstance(parent, dict)
        ]
    return found


def _cosines(states: Sequence[AdapterState]) -> tuple[tuple[float, ...], ...] | None:
    names = sorted({name for state in states for name in state.info.modules})
    products = torch.zeros(len(states), len(states), dtype=torch.float64)
    for name in names:
        holders = [state.info.modules.get(name) for state in states]
        if len({(m.kind, m.in_features, m.out_features) for m in holders if m is not None}) != 1:
            return None
        ranks = [m.rank if m else 0 for m in holders]
        stacked = aggregate.stack([state.factors(name) if name in state.info.modules else None for state in states])
        products += aggregate.inner_products(aggregate.gram(*stacked, ranks))
    if not names or not products.isfinite().all():
        return None
    return tuple(tuple(row) for row in robust.cosines(products).tolist())


def _layer(name: str) -> int | None:
    return next((int(part) for part in name.split(".") if part.isdecimal()), None)


def _effective_rank(energy: Tensor) -> float:
    """exp of the entropy of the energies' shares (Roy and Vetterli 2007): r for r equal directions, 1 for a single
    one.
    """
    shares = energy[energy > 0] / energy.sum()
    return float((-(shares * shares.log()).sum()).exp()) if len(shares) else 0.0
