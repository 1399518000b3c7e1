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
from pocketft.adapters.merge_account import Combined, merge_report
from pocketft.adapters.merge_report import MergeReport
from pocketft.adapters.merge_settings import DEFAULT_ENERGY, FACTOR_WISE, MergeSettings, check_settings
from pocketft.adapters.merged_info import merged_info, merged_module, merged_provenance
from pocketft.adapters.state import AdapterInfo, AdapterState, Factors, natural_order
from pocketft.adapters.threads import in_threads
from pocketft.adapters.weighting import as_given, by_tokens
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
    infos = [state.info for state in states]
    notices = check_mergeable(infos, allow_different_quantization=settings.allow_different_quantization)
    weighting = by_tokens(infos) if settings.weights is None else as_given(settings.weights, infos)
    # One order for computing, whatever the order of the files, makes the same merge bit for bit.
    order = sorted(range(len(states)), key=lambda index: infos[index].sha256)
    parents = [states[index] for index in order]
    ordered = [parent.info for parent in parents]
    names = sorted({name for info in infos for name in info.modules}, key=natural_order)

    store = _gram_store(ordered, names)
    products = _judged(parents, names, store)
    mixture = _mixture(products, [weighting.weights[index] for index in order], settings)
    combined = _combined(ordered, names, store, mixture, settings, notices)

    info = _info(ordered, combined, mixture)
    # Reports speak of the adapters in the order in which they were named.
    back = sorted(range(len(order)), key=lambda place: order[place])
    shown = Mixture(mixture.weights[back], mixture.scales[back])
    report = merge_report(infos, weighting, products[back][:, back], shown, combined, settings, notices)
    report = replace(report, parameters=info.parameters)
    return MergedAdapter(
        info=replace(info, provenance=merged_provenance(info, infos, report)),
        report=report,
        parents=tuple(parents),
        combinations=dict(zip(names, combined.cut, strict=True)),
        shares=tuple(mixture.weights.tolist()),
    )


def _gram_store(infos: Sequence[AdapterInfo], names: Sequence[str]) -> GramStore:
    ranks = [tuple(info.modules[name].rank if name in info.modules else 0 for info in infos) for name in names]
    if GramStore.bytes_for(ranks) > _MAX_GRAM_BYTES:
        raise AdapterError(
            f"{len(infos)} adapters with ranks up to {max(info.max_rank for info in infos)} are too many at once; "
            "merge groups of them with --lossless, then the results"
        )
    return GramStore(ranks)


def _judged(parents: Sequence[AdapterState], names: Sequence[str], store: GramStore) -> Tensor:
    """Fill the store; returns the inner products of the parents' whole updates, (K, K) float64."""

    def judge(module: tuple[int, str]) -> Tensor:
        gram = _gram(parents, module[1], store.ranks[module[0]])
        store.put(module[0], gram)
        return aggregate.inner_products(gram)

    products = torch.zeros(len(parents), len(parents), dtype=torch.float64)
    for part in in_threads(judge, enumerate(names)):
        products += part
    _check_extras(parents)
    return products


def _mixture(products: Tensor, weights: Sequence[float], settings: MergeSettings) -> Mixture:
    scales = robust.clip_scales(products, settings.clip_limit)
    try:
        return robust.mixture(products, torch.tensor(weights, dtype=torch.float64), scales, settings.robust)
    except ValueError:
        raise AdapterError(
            f"--robust {settings.robust} leaves only adapters of weight zero; give other --weights"
        ) from None


def _combined(
    infos: Sequence[AdapterInfo],
    names: list[str],
    store: GramStore,
    mixture: Mixture,
    settings: MergeSettings,
    notices: list[str],
) -> Combined:
    def combine(module: tuple[int, str]) -> tuple[Combination, float, float]:
        gram = store.get(module[0])
        combination = store.replace(module[0], _combine(gram, mixture, settings, module[1], infos))
        if settings.method != "fedavg":
            return combination, 0.0, 0.0
        return combination, *aggregate.cross_term_error(gram, mixture, combination)

    found = list(in_threads(combine, enumerate(names)))
    whole = [combination for combination, _, _ in found]
    error, wanted = sum(squares for _, squares, _ in found), sum(squares for _, _, squares in found)
    rank = _rank(whole, settings, infos, notices)
    return Combined(
        names,
        whole,
        cut=[combination.truncated(rank) for combination in whole],
        rank=rank,
        cross_term_error=math.sqrt(error / wanted) if settings.method == "fedavg" and wanted else None,
    )


def _info(infos: Sequence[AdapterInfo], combined: Combined, mixture: Mixture) -> AdapterInfo:
    modules = {name: merged_module(infos, name, combined.rank) for name in combined.names}
    return merged_info(infos, modules, mixture.weights.tolist(), combined.rank)


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
