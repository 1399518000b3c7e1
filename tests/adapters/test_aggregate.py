"""The small-matrix mathematics against the dense matrices that it avoids."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from peft.utils import merge_utils
from torch import Tensor

from pocketft.adapters import aggregate
from pocketft.adapters.aggregate import Combination, Mixture
from pocketft.adapters.state import Factors
from tests.adapters.build import dense_update, random_factors

IN, OUT = 24, 18


def merged_update(combination: Combination, factors: list[Factors]) -> Tensor:
    return dense_update(aggregate.apply(combination, *aggregate.stack(factors)))


def gram_of(factors: list[Factors]) -> aggregate.ModuleGram:
    return aggregate.gram(*aggregate.stack(factors), [len(f.a) for f in factors])


def even(count: int) -> Mixture:
    return Mixture(torch.full((count,), 1 / count, dtype=torch.float64), torch.ones(count, dtype=torch.float64))


def weighted_mean(factors: list[Factors], mixture: Mixture) -> Tensor:
    pairs = zip(mixture.coefficients.tolist(), factors, strict=True)
    return sum((c * dense_update(f) for c, f in pairs), torch.zeros(OUT, IN, dtype=torch.float64))


def relative(one: Tensor, other: Tensor) -> float:
    return float((one - other).norm() / other.norm())


adapters = st.lists(st.tuples(st.integers(0, 10**6), st.integers(1, 8), st.floats(0.01, 50)), min_size=1, max_size=6)


def build(described: list[tuple[int, int, float]]) -> list[Factors]:
    return [random_factors(seed, rank, IN, OUT, scaling) for seed, rank, scaling in described]


@settings(max_examples=40, deadline=None)
@given(adapters, st.data())
def test_exact_is_the_dense_weighted_mean(described: list[tuple[int, int, float]], data: st.DataObject) -> None:
    factors = build(described)
    numbers = st.lists(st.floats(0.1, 10), min_size=len(factors), max_size=len(factors))
    weights = torch.tensor(data.draw(numbers), dtype=torch.float64)
    scales = torch.tensor(data.draw(numbers), dtype=torch.float64).clamp(max=1)
    mixture = Mixture(weights / weights.sum(), scales)
    merged = merged_update(aggregate.exact(gram_of(factors), mixture), factors)
    assert relative(merged, weighted_mean(factors, mixture)) < 1e-5


@settings(max_examples=30, deadline=None)
@given(adapters, st.integers(1, 18))
def test_truncation_is_the_dense_svd_optimum(described: list[tuple[int, int, float]], rank: int) -> None:
    factors = build(described)
    mixture = even(len(factors))
    wanted = weighted_mean(factors, mixture)
    combination = aggregate.exact(gram_of(factors), mixture)
    values = torch.linalg.svdvals(wanted)
    best = float((values[rank:] ** 2).sum().sqrt() / values.norm())
    got = relative(merged_update(combination.truncated(rank), factors), wanted)
    assert got == pytest.approx(best, abs=1e-4)
    assert combination.energy is not None
    assert torch.allclose(combination.energy.sqrt(), values[: combination.rank], atol=1e-5 * float(values[0]))


@settings(max_examples=30, deadline=None)
@given(adapters, st.randoms(use_true_random=False))
def test_the_order_of_adapters_does_not_matter(described: list[tuple[int, int, float]], random: object) -> None:
    factors = build(described)
    shuffled = list(factors)
    random.shuffle(shuffled)  # type: ignore[attr-defined]
    one = merged_update(aggregate.exact(gram_of(factors), even(len(factors))).truncated(3), factors)
    other = merged_update(aggregate.exact(gram_of(shuffled), even(len(factors))).truncated(3), shuffled)
    assert relative(one, other) < 1e-4


def refactored(factors: Factors, seed: int) -> Factors:
    """(A, B) -> (A R⁻¹, R B) with a random, moderately skewed R: the same update in other factors."""
    draw = torch.Generator().manual_seed(seed)
    rank = len(factors.a)
    turn, _ = torch.linalg.qr(torch.randn(rank, rank, generator=draw, dtype=torch.float64))
    r = turn * torch.logspace(-2, 2, rank, dtype=torch.float64)
    return Factors(
        (torch.linalg.inv(r) @ factors.a.double()).float(), (factors.b.double() @ r).float(), factors.scaling
    )


@settings(max_examples=30, deadline=None)
@given(adapters)
def test_other_factors_of_the_same_updates_merge_to_the_same(described: list[tuple[int, int, float]]) -> None:
    factors = build(described)
    others = [refactored(f, seed) for seed, f in enumerate(factors)]
    one = merged_update(aggregate.exact(gram_of(factors), even(len(factors))), factors)
    other = merged_update(aggregate.exact(gram_of(others), even(len(factors))), others)
    assert relative(one, other) < 1e-4


def test_one_huge_and_one_tiny_factor_lose_no_digits() -> None:
    lopsided = random_factors(1, 4, IN, OUT)
    factors = [Factors(lopsided.a * 1e8, lopsided.b * 1e-8, 2.0), random_factors(2, 4, IN, OUT)]
    mixture = even(2)
    merged = merged_update(aggregate.exact(gram_of(factors), mixture), factors)
    assert relative(merged, weighted_mean(factors, mixture)) < 1e-5


@pytest.mark.parametrize("count", [2, 5])
def test_copies_merge_to_the_adapter_at_its_own_rank(count: int) -> None:
    one = random_factors(1, 4, IN, OUT)
    combination = aggregate.exact(gram_of([one] * count), even(count))
    assert combination.rank == 4
    assert relative(merged_update(combination, [one] * count), dense_update(one)) < 1e-5


def test_more_rows_than_inputs_still_merge() -> None:
    factors = [random_factors(seed, 8, IN, OUT) for seed in range(6)]  # 48 rows of 24 inputs
    combination = aggregate.exact(gram_of(factors), even(6))
    assert combination.rank == min(IN, OUT)
    assert relative(merged_update(combination, factors), weighted_mean(factors, even(6))) < 1e-5


def test_untrained_adapters_merge_to_nothing() -> None:
    zero = Factors(torch.randn(4, IN), torch.zeros(OUT, 4), 2.0)
    combination = aggregate.exact(gram_of([zero, zero]), even(2))
    assert combination.rank == 0
    assert merged_update(combination, [zero, zero]).abs().max() == 0


def test_inner_products_are_those_of_the_dense_updates() -> None:
    factors = [random_factors(seed, seed + 1, IN, OUT, 0.5 + seed) for seed in range(4)]
    flat = torch.stack([dense_update(f).flatten() for f in factors])
    assert torch.allclose(aggregate.inner_products(gram_of(factors)), flat @ flat.T, rtol=1e-5, atol=1e-3)


def test_an_absent_module_counts_as_zero() -> None:
    one = random_factors(1, 4, IN, OUT)
    a, b = aggregate.stack([None, one, None])
    gram = aggregate.gram(a, b, [0, 4, 0])
    merged = dense_update(aggregate.apply(aggregate.exact(gram, even(3)), a, b))
    assert relative(merged, dense_update(one) / 3) < 1e-5
    assert aggregate.inner_products(gram)[0].abs().max() == 0


def test_fedavg_averages_factors_and_says_how_wrong_that_is() -> None:
    factors = [random_factors(seed, 4, IN, OUT) for seed in range(3)]
    gram, mixture = gram_of(factors), even(3)
    combination = aggregate.fedavg(gram, mixture)
    b = torch.stack([f.scaling * f.b for f in factors]).mean(0)
    a = torch.stack([f.a for f in factors]).mean(0)
    merged = merged_update(combination, factors)
    assert relative(merged, (b @ a).double()) < 1e-5
    error, size = aggregate.cross_term_error(gram, mixture, combination)
    wanted = weighted_mean(factors, mixture)
    assert (error / size) ** 0.5 == pytest.approx(relative(merged, wanted), rel=1e-4)
    assert (error / size) ** 0.5 > 0.3


def test_ffa_is_exact_for_a_shared_a_and_keeps_its_rank() -> None:
    a = torch.randn(4, IN)
    factors = [Factors(a, torch.randn(OUT, 4), 2.0) for _ in range(3)]
    gram = gram_of(factors)
    assert aggregate.shares_a(gram)
    combination = aggregate.ffa(gram, even(3))
    assert combination.rank == 4
    assert relative(merged_update(combination, factors), weighted_mean(factors, even(3))) < 1e-5
    assert not aggregate.shares_a(gram_of([factors[0], random_factors(9, 4, IN, OUT)]))
    assert not aggregate.shares_a(gram_of([factors[0], random_factors(9, 5, IN, OUT)]))


def dense_ties(factors: list[Factors], density: float) -> Tensor:
    """TIES on the dense updates, written in their common principal directions."""
    updates = [dense_update(f) for f in factors]
    rank = torch.linalg.matrix_rank(torch.cat(updates, 1))
    u = torch.linalg.eigh(sum(x @ x.T for x in updates))[1][:, -int(rank) :]
    rank = torch.linalg.matrix_rank(torch.cat(updates, 0))
    v = torch.linalg.eigh(sum(x.T @ x for x in updates))[1][:, -int(rank) :]
    cores = [u.T @ x @ v for x in updates]
    merged: Tensor = merge_utils.ties(cores, torch.ones(len(cores), dtype=torch.float64), density)
    return u @ merged @ v.T


@pytest.mark.parametrize("density", [0.2, 0.6])
def test_ties_is_pefts_in_the_updates_principal_directions(density: float) -> None:
    factors = [random_factors(seed, 3, IN, OUT) for seed in range(3)]
    merged = merged_update(aggregate.ties(gram_of(factors), even(3), density), factors)
    assert relative(merged, dense_ties(factors, density)) < 1e-4


def test_ties_does_not_depend_on_order_or_factors() -> None:
    factors = [random_factors(seed, 3, IN, OUT) for seed in range(3)]
    others = [refactored(factors[place], place) for place in (2, 0, 1)]
    one = merged_update(aggregate.ties(gram_of(factors), even(3), 0.5), factors)
    other = merged_update(aggregate.ties(gram_of(others), even(3), 0.5), others)
    assert relative(one, other) < 1e-3


def test_ties_and_dare_of_copies_at_full_density_are_the_adapter() -> None:
    one = random_factors(1, 4, IN, OUT)
    gram = gram_of([one] * 3)
    assert relative(merged_update(aggregate.ties(gram, even(3), 1.0), [one] * 3), dense_update(one)) < 1e-5
    assert relative(merged_update(aggregate.dare(gram, even(3), 1.0, [1, 2, 3]), [one] * 3), dense_update(one)) < 1e-5


def test_dare_is_right_on_average_and_leaves_the_global_draw_alone() -> None:
    factors = [random_factors(seed, 3, IN, OUT) for seed in range(2)]
    gram = gram_of(factors)
    torch.manual_seed(0)
    draws = [merged_update(aggregate.dare(gram, even(2), 0.5, [seed, seed + 1000]), factors) for seed in range(200)]
    after = torch.rand(1)
    torch.manual_seed(0)
    assert torch.equal(after, torch.rand(1))
    assert relative(torch.stack(draws).mean(0), weighted_mean(factors, even(2))) < 0.15
    assert relative(draws[0], draws[1]) > 0.1


def test_the_rank_is_the_smallest_that_keeps_the_energy_over_all_modules() -> None:
    spectra = [torch.tensor([80.0, 15.0, 5.0]), torch.tensor([60.0, 30.0, 9.0, 1.0])]
    empty = torch.empty(0, 0)
    combinations = [Combination(empty, empty, spectrum.double()) for spectrum in spectra]
    assert aggregate.choose_rank(combinations, 0.70) == 1  # 140 of 200
    assert aggregate.choose_rank(combinations, 0.71) == 2
    assert aggregate.choose_rank(combinations, 0.99) == 3
    assert aggregate.choose_rank(combinations, 1.0) == 4
    assert aggregate.choose_rank(combinations, 0.5, at_least=3) == 3
    assert aggregate.choose_rank(combinations, 0.5, at_least=9) == 4
