"""What a merge did, as data: for the person, for `--json`, and for the merged adapter's own record."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any


@dataclass(frozen=True)
class ParentReport:
    """One adapter's part in a merge. `weight` is its final share, after the robust rule; `clip_scale` what
    shortened its update.
    """

    label: str
    sha256: str
    rank: int
    weight: float
    tokens: int | None
    norm: float
    clip_scale: float
    cosine_to_others: float | None  # with the weighted mean of the others; None for a single adapter
    outlier: tuple[str, ...] = ()

    @property
    def dropped(self) -> bool:
        return self.weight == 0.0

    def to_json(self) -> dict[str, Any]:
        return {
            "name": self.label,
            "sha256": self.sha256,
            "rank": self.rank,
            "weight": self.weight,
            "tokens": self.tokens,
            "norm": self.norm,
            "clip_scale": self.clip_scale,
            "cosine_to_others": self.cosine_to_others,
            "dropped": self.dropped,
            "outlier": list(self.outlier),
        }


@dataclass(frozen=True)
class MergeReport:
    method: str
    weights_by: str
    robust: str
    clip: str
    parents: tuple[ParentReport, ...]
    modules: int
    rank: int
    stacked_rank: int
    energy_kept: float
    worst_module: str | None  # the one that lost the largest part of its energy
    worst_module_energy_kept: float
    cross_term_error: float | None  # of factor-wise methods: |merge - weighted mean| / |weighted mean|
    missing: Mapping[str, tuple[str, ...]]  # adapter to the modules that it lacks
    cosines: tuple[tuple[float, ...], ...]
    disagreement: tuple[str, ...] = ()
    notices: tuple[str, ...] = ()
    parameters: int = 0
    check: Mapping[str, Any] | None = field(default=None)

    def to_json(self) -> dict[str, Any]:
        return {
            "method": self.method,
            "weights_by": self.weights_by,
            "robust": self.robust,
            "clip": self.clip,
            "adapters": [parent.to_json() for parent in self.parents],
            "modules": self.modules,
            "rank": self.rank,
            "stacked_rank": self.stacked_rank,
            "energy_kept": self.energy_kept,
            "energy_lost": 1.0 - self.energy_kept,
            "worst_module": self.worst_module,
            "worst_module_energy_kept": self.worst_module_energy_kept,
            "cross_term_error": self.cross_term_error,
            "missing_modules": {label: list(names) for label, names in self.missing.items()},
            "cosines": [list(row) for row in self.cosines],
            "disagreement": list(self.disagreement),
            "notices": list(self.notices),
            "parameters": self.parameters,
            "check": self.check,
        }
