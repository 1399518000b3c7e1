"""Which adapters to believe, judged by the inner products of their updates alone.

Takes the (K, K) matrix <dW_i, dW_j> summed over all modules (from `aggregate.inner_products`) and returns how much
each adapter counts. Every distance, cosine and centre that the rules need is in that matrix, so twenty adapters cost
as much to judge as two. Pure functions; no files, no names.

The rules assume that more than half of the adapters mean well. With two adapters nobody can tell who is wrong, so
nothing is clipped or dropped and only their disagreement is reported.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from pocketft.adapters.aggregate import Mixture

RobustRule = Literal["none", "multikrum", "geomedian", "trimmed"]

# How many adapters each rule needs before it can outvote one.
FEWEST = {"none": 1, "multikrum": 4, "geomedian": 3, "trimmed": 3}

# Beyond 3.5 robust deviations (Iglewicz and Hoaglin's limit) an adapter is named as an outlier.
_DEVIATIONS = 3.5
# Deviations are not trusted to be smaller than this: of near-equal adapters one would always be "far" from the rest.
_LEAST_NORM_DEVIATION = 0.1  # of the median norm
_LEAST_COSINE_DEVIATION = 0.05


@dataclass(frozen=True)
class Outlier:
    index: int
    reason: str


def norms(products: Tensor) -> Tensor:
    return products.diagonal().clamp(min=0).sqrt()


def cosines(products: Tensor) -> Tensor:
    """(K, K); an update of length zero has cosine 0 with everything."""
    lengths = norms(products)
    inverse = torch.where(lengths > 0, 1 / lengths.clamp(min=1e-300), torch.zeros_like(lengths))
    return (products * inverse[:, None] * inverse).clamp(-1, 1)


def clip_scales(products: Tensor, limit: float | Literal["median"] | None) -> Tensor:
    """min(1, limit / norm) for each update. The median is that of the updates that are not zero; None clips nothing."""
    lengths = norms(products)
    if limit is None or (limit == "median" and len(lengths) < 3):
        return torch.ones_like(lengths)
    bound = _median(lengths[lengths > 0]) if limit == "median" else torch.tensor(float(limit), dtype=lengths.dtype)
    return torch.where(lengths > bound, bound / lengths.clamp(min=1e-300), torch.ones_like(lengths))


def mixture(products: Tensor, weights: Tensor, scales: Tensor, rule: RobustRule) -> Mixture:
    """The shares that `rule` gives to updates clipped by `scales`; they sum to one, and zero is dropped."""
    clipped = products * scales[:, None] * scales
    weights = weights.double() / weights.sum()
    if rule == "multikrum":
        weights = weights * _multikrum(clipped)
    elif rule == "geomedian":
        weights = _geometric_median(clipped, weights)
    elif rule == "trimmed":
        weights = weights * _nearest_to_centre(clipped, weights)
    if weights.sum() <= 0:
        raise ValueError("no adapter with a weight is left")
    return Mixture(weights / weights.sum(), scales)


def leave_one_out_cosines(products: Tensor, weights: Tensor) -> Tensor:
    """The cosine of each update with the weighted mean of the others."""
    count = len(products)
    result = torch.zeros(count, dtype=products.dtype)
    for index in range(count):
        others = weights.to(products).clone()
        others[index] = 0
        toward = products[index] @ others
        length = (others @ products @ others).clamp(min=0).sqrt() * norms(products)[index]
        result[index] = toward / length if length > 0 else 0.0
    return result.clamp(-1, 1)


def outliers(products: Tensor, weights: Tensor) -> list[Outlier]:
    """Updates much longer or shorter than the others, or pointing elsewhere; none are named among fewer than three."""
    if len(products) < 3:
        return []
    found = []
    lengths = norms(products)
    centre = _median(lengths)
    if centre > 0:
        for index, length in enumerate(lengths.tolist()):
            deviations = abs(length - centre) / _deviation(lengths, _LEAST_NORM_DEVIATION * float(centre))
            if deviations > _DEVIATIONS:
                found.append(
                    Outlier(index, f"its update is {length / float(centre):.3g} times as long as the median one")
                )
    scales = clip_scales(products, "median")
    toward = leave_one_out_cosines(products * scales[:, None] * scales, weights)
    middle = _median(toward)
    for index, cosine in enumerate(toward.tolist()):
        if (float(middle) - cosine) / _deviation(toward, _LEAST_COSINE_DEVIATION) > _DEVIATIONS:
            found.append(
                Outlier(
                    index, f"it points away from the others (cosine {cosine:.2f} with their mean, median {middle:.2f})"
                )
            )
    return found


def _median(values: Tensor) -> Tensor:
    """The usual one, the mean of the middle two for an even count; torch's own takes the lower."""
    return values.quantile(0.5) if len(values) else torch.zeros((), dtype=torch.float64)


def _deviation(values: Tensor, least: float) -> float:
    """Median absolute deviation, scaled to a normal distribution's standard deviation."""
    return max(1.4826 * float(_median((values - _median(values)).abs())), least)


def _squared_distances(products: Tensor) -> Tensor:
    sizes = products.diagonal()
    return (sizes[:, None] + sizes - 2 * products).clamp(min=0)


def _multikrum(products: Tensor) -> Tensor:
    """1 for those kept. Each is scored by the distance to its n - f - 2 nearest (Blanchard et al. 2017); the f worst
    go, where f = (n - 3) / 2 is the most that the rule can stand, and at least one."""
    count = len(products)
    bad = max(1, (count - 3) // 2)
    nearest = _squared_distances(products).sort(dim=1).values[:, 1 : count - bad - 1]
    keep = torch.zeros(count, dtype=torch.float64)
    keep[nearest.sum(1).argsort(stable=True)[: count - bad]] = 1.0
    return keep


def _geometric_median(products: Tensor, weights: Tensor, iterations: int = 1000) -> Tensor:
    """Shares c of the point Σ c_i dW_i that minimises Σ w_i |dW_i - point|, by Weiszfeld's iteration on inner
    products.
    """
    shares = weights.clone()
    floor = 1e-9 * products.diagonal().max().clamp(min=0).sqrt() + 1e-300
    for _ in range(iterations):
        distances = _distances_to(products, shares).clamp(min=floor)
        following = weights / distances
        following = following / following.sum()
        moved = (following - shares).abs().max()
        shares = following
        if moved < 1e-10:
            break
    return shares


def _nearest_to_centre(products: Tensor, weights: Tensor) -> Tensor:
    """1 for those kept: a fifth of the adapters, at least one, goes, the farthest from the geometric median."""
    count = len(products)
    distances = _distances_to(products, _geometric_median(products, weights))
    keep = torch.ones(count, dtype=torch.float64)
    keep[distances.argsort(stable=True)[count - max(1, count // 5) :]] = 0.0
    return keep


def _distances_to(products: Tensor, shares: Tensor) -> Tensor:
    """(K,): |dW_i - Σ c_j dW_j|"""
    toward = products @ shares
    return (products.diagonal() - 2 * toward + shares @ toward).clamp(min=0).sqrt()


def disagreement(products: Tensor) -> Sequence[str]:
    """What can be said of exactly two adapters: how they differ, not which is right."""
    lengths = norms(products).tolist()
    cosine = float(cosines(products)[0, 1])
    shorter, longer = sorted(lengths)
    lines = [f"the two updates have cosine {cosine:.2f} and lengths {lengths[0]:.3g} and {lengths[1]:.3g}"]
    if cosine < -0.1 or (shorter > 0 and longer > 10 * shorter):
        lines.append("they disagree, and two adapters cannot tell which is right; --check TEXT can")
    return lines
