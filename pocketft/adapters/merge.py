"""Merging adapter states into one: the rules put together, with nothing read from or written to disk here.

`merge_states` judges every adapter once, decides how much each counts, and returns an adapter state that computes its
factors when they are asked for. So a merge can be scored, merged again or written without ever being held whole; a
live round calls the same function.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from pocketft.adapters import aggregate, robust
from pocketft.adapters.aggregate import Combination, Mixture, ModuleGram
from pocketft.adapters.compatibility import check_mergeable
from pocketft.adapters.gram_store import GramStore
from pocketft.adapters.merge_report import MergeReport, ParentReport
from pocketft.adapters.merge_settings import DEFAULT_ENERGY, FACTOR_WISE, MergeSettings, check_settings
from pocketft.adapters.merged_info import merged_info, merged_module, merged_provenance
from pocketft.adapters.state import AdapterInfo, AdapterState, Factors, natural_order
from pocketft.adapters.threads import in_threads
from pocketft.adapters.weighting import Weighting, as_given, by_tokens
from pocketft.errors import AdapterError, UsageError

_MAX_GRAM_BYTES = 2 << 30


@dataclass(frozen=True)
class MergedAdapter:
    """An `AdapterState` whose factors are computed from its parents' on demand."""

    info: AdapterInfo
    report: MergeReport
    parents: tuple[AdapterState, ...]
    combinations: Mapping[str, Combination]
    shares: tuple[float, ...]  # of the parents in whole tensors; they sum to one

    def factors(self, module: str) -> Factors:
        factors = aggregate.apply(self.combinations[module], *_stacked(self.parents, module))
        missing = self.info.modules[module].rank - factors.a.shape[0]
        pad = torch.nn.functional.pad
        return Factors(pad(factors.a, (0, 0, 0, missing)), pad(factors.b, (0, missing)), 1.0)

    def extra(self, name: str) -> Tensor:
        merged = torch.zeros(self.info.extras[name], dtype=torch.float64)
        for parent, share in zip(self.parents, self.shares, strict=True):
            if share:
                merged += share * parent.extra(name)
        return merged.float()


def merge_states(states: Sequence[AdapterState], settings: MergeSettings) -> MergedAdapter:
    """Raises AdapterError where adapters do not belong together or hold NaN or infinity, before any is combined
    with another.
    """
    if not states:
        raise UsageError("nothing to merge; name at least one adapter")
    check_settings(settings, len(states))
    notices = check_mergeable(
        [state.info for state in states], allow_different_quantization=settings.allow_different_quantization
    )
    weighting = _weighting(states, settings)
    # One order for computing, whatever the order of the files, makes the same merge bit for bit.
    order = sorted(range(len(states)), key=lambda index: states[index].info.sha256)
    states = [states[index] for index in order]
    infos = [state.info for state in states]
    names = sorted({name for info in infos for name in info.modules}, key=natural_order)

    ranks = [tuple(_rank_of(info, name) for info in infos) for name in names]
    _check_size(infos, ranks)
    store = GramStore(ranks)
    products = torch.zeros(len(states), len(states), dtype=torch.float64)

    def judge(module: tuple[int, str]) -> Tensor:
        gram = _gram(states, module[1], ranks[module[0]])
        store.put(module[0], gram)
        return aggregate.inner_products(gram)

    for part in in_threads(judge, enumerate(names)):
        products += part
    _check_extras(states)
    weights = torch.tensor([weighting.weights[index] for index in order], dtype=torch.float64)
    scales = robust.clip_scales(products, settings.clip_limit)
    try:
        mixture = robust.mixture(products, weights, scales, settings.robust)
    except ValueError:
        raise AdapterError(
            f"--robust {settings.robust} leaves only adapters of weight zero; give other --weights"
        ) from None

    def combine(module: tuple[int, str]) -> tuple[Combination, float, float]:
        gram = store.get(module[0])
        combination = store.replace(module[0], _combine(gram, mixture, settings, module[1], infos))
        if settings.method != "fedavg":
            return combination, 0.0, 0.0
        return combination, *aggregate.cross_term_error(gram, mixture, combination)

    found = list(in_threads(combine, enumerate(names)))
    combinations = [combination for combination, _, _ in found]
    error, wanted = sum(squares for _, squares, _ in found), sum(squares for _, _, squares in found)

    rank = _rank(combinations, settings, infos, notices)
    cut = [combination.truncated(rank) for combination in combinations]
    kept, worst, worst_kept = _energy_kept(names, combinations, cut)
    info = merged_info(
        infos, {name: merged_module(infos, name, rank) for name in names}, mixture.weights.tolist(), rank
    )

    # Reports speak of the adapters in the order in which they were named.
    back = sorted(range(len(order)), key=lambda place: order[place])
    infos, products = [infos[place] for place in back], products[back][:, back]
    shown = Mixture(mixture.weights[back], mixture.scales[back])
    report = MergeReport(
        method=settings.method,
        weights_by=weighting.by,
        robust=settings.robust,
        clip=str(settings.clip_limit or "none"),
        parents=_parent_reports(infos, weighting, products, shown),
        modules=len(names),
        rank=rank,
        stacked_rank=max(sum(info.modules[name].rank for info in infos if name in info.modules) for name in names),
        energy_kept=kept,
        worst_module=worst,
        worst_module_energy_kept=worst_kept,
        cross_term_error=math.sqrt(error / wanted) if settings.method == "fedavg" and wanted else None,
        missing={i.label: tuple(n for n in names if n not in i.modules) for i in infos if len(i.modules) < len(names)},
        cosines=tuple(tuple(row) for row in robust.cosines(products).tolist()),
        disagreement=tuple(robust.disagreement(products)) if len(infos) == 2 else (),
        notices=(*notices, *weighting.notices, *_other_notices(infos, products, settings)),
        parameters=info.parameters,
    )
    return MergedAdapter(
        info=replace(info, provenance=merged_provenance(info, infos, report)),
        report=report,
        parents=tuple(states),
        combinations=dict(zip(names, cut, strict=True)),
        shares=tuple(mixture.weights.tolist()),
    )


def _weighting(states: Sequence[AdapterState], settings: MergeSettings) -> Weighting:
    infos = [state.info for state in states]
    return by_tokens(infos) if settings.weights is None else as_given(settings.weights, infos)


def _rank_of(info: AdapterInfo, name: str) -> int:
    return info.modules[name].rank if name in info.modules else 0


def _check_size(infos: Sequence[AdapterInfo], ranks: Sequence[tuple[int, ...]]) -> None:
    if GramStore.bytes_for(ranks) > _MAX_GRAM_BYTES:
        raise AdapterError(
            f"{len(infos)} adapters with ranks up to {max(info.max_rank for info in infos)} are too many at once; "
            "merge groups of them with --lossless, then the results"
        )


def _stacked(states: Sequence[AdapterState], name: str) -> tuple[Tensor, Tensor]:
    return aggregate.stack([state.factors(name) if name in state.info.modules else None for state in states])


def _gram(states: Sequence[AdapterState], name: str, ranks: tuple[int, ...]) -> ModuleGram:
    gram = aggregate.gram(*_stacked(states, name), ranks)
    for run, state in zip(gram.runs(), states, strict=True):
        for side, product in (("A", gram.a), ("B", gram.b)):
            if not product[run, run].isfinite().all():
                raise AdapterError(
                    f"{state.info.label}: {name} has NaN or infinity in its factor {side}; leave that adapter out"
                )
    return gram


def _check_extras(states: Sequence[AdapterState]) -> None:
    for state in states:
        for name in state.info.extras:
            if not state.extra(name).isfinite().all():
                raise AdapterError(f"{state.info.label}: {name} has NaN or infinity; leave that adapter out")


def _combine(
    gram: ModuleGram, mixture: Mixture, settings: MergeSettings, name: str, infos: Sequence[AdapterInfo]
) -> Combination:
    if settings.method == "exact":
        return aggregate.exact(gram, mixture)
    if settings.method == "fedavg":
        if not aggregate.equal_ranks(gram):
            raise AdapterError(
                f"fedavg averages factors and needs adapters of one rank, not {_listed(gram.ranks)} as in {name}; "
                "the exact method takes mixed ranks"
            )
        return aggregate.fedavg(gram, mixture)
    if settings.method == "ffa":
        if not aggregate.shares_a(gram):
            raise AdapterError(f"ffa needs adapters that share one frozen A, and in {name} they differ; use exact")
        return aggregate.ffa(gram, mixture)
    if settings.method == "ties":
        return aggregate.ties(gram, mixture, settings.density)
    draws = [hashlib.sha256(f"{settings.seed} {info.sha256} {name}".encode()).digest() for info in infos]
    return aggregate.dare(gram, mixture, settings.density, [int.from_bytes(draw[:7], "big") for draw in draws])


def _listed(ranks: tuple[int, ...]) -> str:
    return " and ".join(str(rank) for rank in sorted({rank for rank in ranks if rank}))


def _rank(
    combinations: Sequence[Combination], settings: MergeSettings, infos: Sequence[AdapterInfo], notices: list[str]
) -> int:
    if settings.method in FACTOR_WISE:
        return max(combination.rank for combination in combinations)
    highest = max(1, *(combination.rank for combination in combinations))
    if settings.lossless:
        return highest
    if settings.rank is not None:
        if settings.rank > highest:
            notices.append(f"rank {highest} already holds the whole merge; --rank {settings.rank} would add zeros")
        return min(settings.rank, highest)
    if settings.energy is not None:
        return aggregate.choose_rank(combinations, settings.energy)
    return aggregate.choose_rank(combinations, DEFAULT_ENERGY, at_least=max(info.max_rank for info in infos))


def _energy_kept(
    names: Sequence[str], whole: Sequence[Combination], cut: Sequence[Combination]
) -> tuple[float, str | None, float]:
    total = kept = 0.0
    worst, worst_kept = None, 1.0
    for name, before, after in zip(names, whole, cut, strict=True):
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
