"""The robust rules, which see inner products only, against the same rules on the vectors themselves."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from pocketft.adapters import robust


def vectors(*rows: list[float]) -> Tensor:
    return torch.tensor(rows, dtype=torch.float64)


def crowd(count: int, seed: int = 0, spread: float = 1.0, width: int = 30) -> Tensor:
    """Updates that share a direction and each have their own."""
    draw = torch.Generator().manual_seed(seed)
    return 3.0 + spread * torch.randn(count, width, generator=draw, dtype=torch.float64)


def even(count: int) -> Tensor:
    return torch.full((count,), 1 / count, dtype=torch.float64)


def ones(count: int) -> Tensor:
    return torch.ones(count, dtype=torch.float64)


def test_clipping_shortens_what_is_longer_than_the_median_and_nothing_else() -> None:
    updates = vectors([1.0, 0], [0, 2.0], [3.0, 0], [0, 100.0], [0, 0])
    products = updates @ updates.T
    assert torch.allclose(robust.clip_scales(products, "median"), vectors([1, 1, 2.5 / 3, 0.025, 1])[0])
    assert torch.allclose(robust.clip_scales(products, 50.0), vectors([1, 1, 1, 0.5, 1])[0])
    assert torch.equal(robust.clip_scales(products, None), ones(5))


def test_of_two_adapters_neither_is_clipped_nor_named() -> None:
    updates = vectors([1.0, 0], [0, 100.0])
    products = updates @ updates.T
    assert torch.equal(robust.clip_scales(products, "median"), ones(2))
    assert robust.outliers(products, even(2)) == []
    assert any("disagree" in line for line in robust.disagreement(products))


def dense_multikrum(updates: Tensor) -> set[int]:
    count = len(updates)
    bad = max(1, (count - 3) // 2)
    distances = torch.cdist(updates, updates, compute_mode="donot_use_mm_for_euclid_dist") ** 2
    scores = [distances[i].sort().values[1 : count - bad - 1].sum() for i in range(count)]
    return set(torch.stack(scores).argsort()[: count - bad].tolist())


@pytest.mark.parametrize("seed", range(5))
def test_multikrum_keeps_whom_it_keeps_on_the_vectors(seed: int) -> None:
    updates = crowd(7, seed)
    updates[2] = -40.0
    mixture = robust.mixture(updates @ updates.T, even(7), ones(7), "multikrum")
    kept = set(mixture.weights.nonzero().flatten().tolist())
    assert kept == dense_multikrum(updates)
    assert 2 not in kept
    assert mixture.weights.sum() == pytest.approx(1)


@pytest.mark.parametrize("seed", range(12))
def test_multikrum_scores_by_the_right_number_of_neighbours(seed: int) -> None:
    draw = torch.Generator().manual_seed(seed)
    lengths = torch.rand(15, 1, generator=draw, dtype=torch.float64) + 0.5
    updates = lengths * torch.randn(15, 3, generator=draw, dtype=torch.float64)
    mixture = robust.mixture(updates @ updates.T, even(15), ones(15), "multikrum")
    assert set(mixture.weights.nonzero().flatten().tolist()) == dense_multikrum(updates)


def dense_geometric_median(updates: Tensor, weights: Tensor) -> Tensor:
    point = weights @ updates
    for _ in range(2000):
        pull = weights / (updates - point).norm(dim=1).clamp(min=1e-12)
        point = pull @ updates / pull.sum()
    return point


@pytest.mark.parametrize("seed", range(3))
def test_the_geometric_median_is_that_of_the_vectors(seed: int) -> None:
    updates = crowd(6, seed)
    updates[0] = 500.0
    weights = torch.tensor([1.0, 2, 1, 1, 3, 1], dtype=torch.float64) / 9
    mixture = robust.mixture(updates @ updates.T, weights, ones(6), "geomedian")
    assert torch.allclose(mixture.weights @ updates, dense_geometric_median(updates, weights), atol=1e-6)


def test_the_geometric_median_of_copies_is_the_copy() -> None:
    updates = crowd(1).expand(4, -1)
    mixture = robust.mixture(updates @ updates.T, even(4), ones(4), "geomedian")
    assert torch.allclose(mixture.weights @ updates, updates[0])


def test_trimming_drops_the_farthest() -> None:
    updates = crowd(6)
    updates[4] *= -1
    mixture = robust.mixture(updates @ updates.T, even(6), ones(6), "trimmed")
    assert mixture.weights.tolist() == pytest.approx([0.2, 0.2, 0.2, 0.2, 0.0, 0.2])


@pytest.mark.parametrize("rule", ["multikrum", "geomedian", "trimmed"])
def test_one_liar_among_six_moves_the_merge_little(rule: robust.RobustRule) -> None:
    updates = crowd(6, spread=0.5)
    honest = updates[1:].mean(0)
    updates[0] = -100 * honest
    products = updates @ updates.T
    mixture = robust.mixture(products, even(6), robust.clip_scales(products, "median"), rule)
    merged = mixture.coefficients @ updates
    assert (merged - honest).norm() / honest.norm() < 0.25


def test_rules_do_not_depend_on_the_order_of_adapters() -> None:
    updates, order = crowd(7), [3, 0, 6, 2, 5, 1, 4]
    products = updates @ updates.T
    for rule in ("multikrum", "geomedian", "trimmed"):
        one = robust.mixture(products, even(7), ones(7), rule).weights  # type: ignore[arg-type]
        other = robust.mixture(products[order][:, order], even(7), ones(7), rule).weights  # type: ignore[arg-type]
        assert torch.allclose(one[order], other)


def test_outliers_are_named_with_their_reason() -> None:
    updates = crowd(6, spread=0.5)
    updates[1] *= 100
    updates[4] *= -1
    named = robust.outliers(updates @ updates.T, even(6))
    assert {outlier.index for outlier in named} == {1, 4}
    assert any(outlier.index == 1 and "times as long" in outlier.reason for outlier in named)
    assert any(outlier.index == 4 and "points away" in outlier.reason for outlier in named)


@pytest.mark.parametrize("seed", range(5))
def test_ordinary_adapters_are_not_called_outliers(seed: int) -> None:
    draw = torch.Generator().manual_seed(seed)
    apart = torch.randn(5, 3000, generator=draw, dtype=torch.float64)  # nearly orthogonal, as LoRA updates are
    assert robust.outliers(apart @ apart.T, even(5)) == []
    copies = crowd(1).expand(5, -1)
    assert robust.outliers(copies @ copies.T, even(5)) == []


def test_leave_one_out_cosines_are_those_of_the_vectors() -> None:
    updates = crowd(4)
    weights = torch.tensor([1.0, 2, 3, 4], dtype=torch.float64)
    found = robust.leave_one_out_cosines(updates @ updates.T, weights)
    for index in range(4):
        others = [i for i in range(4) if i != index]
        toward = weights[others] @ updates[others]
        wanted = torch.nn.functional.cosine_similarity(updates[index], toward, dim=0)
        assert found[index] == pytest.approx(float(wanted))
