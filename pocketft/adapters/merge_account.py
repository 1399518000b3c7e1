"""What there is to report of a merge, worked out from its parts."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from pocketft.adapters import robust
from pocketft.adapters.aggregate import Combination, Mixture
from pocketft.adapters.merge_report import MergeReport, ParentReport
from pocketft.adapters.merge_settings import MergeSettings
from pocketft.adapters.state import AdapterInfo
from pocketft.adapters.weighting import Weighting


@dataclass(frozen=True)
class Combined:
    """Of every module, in the order of `names`: its combination whole, and cut to the rank of the merge."""

    names: list[str]
    whole: list[Combination]
    cut: list[Combination]
    rank: int
    cross_term_error: float | None  # as in MergeReport


def merge_report(
    infos: Sequence[AdapterInfo],
    weighting: Weighting,
    products: Tensor,
    mixture: Mixture,
    combined: Combined,
    settings: MergeSettings,
    notices: Sequence[str],
) -> MergeReport:
    """All that it is given of the adapters is in the order of `infos`."""
    names = combined.names
    kept, worst, worst_kept = _energy_kept(combined)
    return MergeReport(
        method=settings.method,
        weights_by=weighting.by,
        robust=settings.robust,
        clip=str(settings.clip_limit or "none"),
        parents=_parent_reports(infos, weighting, products, mixture),
        modules=len(names),
        rank=combined.rank,
        stacked_rank=max(sum(info.modules[name].rank for info in infos if name in info.modules) for name in names),
        energy_kept=kept,
        worst_module=worst,
        worst_module_energy_kept=worst_kept,
        cross_term_error=combined.cross_term_error,
        missing={i.label: tuple(n for n in names if n not in i.modules) for i in infos if len(i.modules) < len(names)},
        cosines=tuple(tuple(row) for row in robust.cosines(products).tolist()),
        disagreement=tuple(robust.disagreement(products)) if len(infos) == 2 else (),
        notices=(*notices, *weighting.notices, *_other_notices(infos, products, settings)),
    )


def _energy_kept(combined: Combined) -> tuple[float, str | None, float]:
    """Of all modules, and the worst of them with its own."""
    total = kept = 0.0
    worst, worst_kept = None, 1.0
    for name, before, after in zip(combined.names, combined.whole, combined.cut, strict=True):
        if before.energy is None or after.energy is None or not before.energy.sum():
            continue
        part = float(after.energy.sum() / before.energy.sum())
        total, kept = total + float(before.energy.sum()), kept + float(after.energy.sum())
        if part < worst_kept:
            worst, worst_kept = name, part
    return (kept / total if total else 1.0), worst, worst_kept


def _parent_reports(
    infos: Sequence[AdapterInfo], weighting: Weighting, products: Tensor, mixture: Mixture
) -> tuple[ParentReport, ...]:
    weights = torch.tensor(weighting.weights, dtype=torch.float64)
    lengths = robust.norms(products).tolist()
    toward = robust.leave_one_out_cosines(products, weights).tolist() if len(infos) > 1 else [None]
    named = robust.outliers(products, weights)
    return tuple(
        ParentReport(
            label=info.label,
            sha256=info.sha256,
            rank=info.max_rank,
            weight=float(mixture.weights[index]),
            tokens=weighting.tokens[index],
            norm=lengths[index],
            clip_scale=float(mixture.scales[index]),
            cosine_to_others=toward[index],
            outlier=tuple(outlier.reason for outlier in named if outlier.index == index),
        )
        for index, info in enumerate(infos)
    )


def _other_notices(infos: Sequence[AdapterInfo], products: Tensor, settings: MergeSettings) -> list[str]:
    notices = []
    first: dict[str, str] = {}
    for info, norm in zip(infos, robust.norms(products).tolist(), strict=True):
        if info.sha256 and info.sha256 in first:
            notices.append(f"{info.label} and {first[info.sha256]} hold the same weights; each counts")
        first.setdefault(info.sha256, info.label)
        if norm == 0:
            notices.append(f"{info.label} changes nothing (its B is zero); was it trained?")
    if settings.lossless and settings.clip is None and len(infos) > 2:
        notices.append("--lossless does not shorten long updates; --clip median does")
    return notices
