"""The mathematics of merging LoRA adapters, module by module, on small matrices only.

Write the factors of K adapters for one module side by side: Â (R, in) stacks the A's as rows, B̂ (out, R) the scaled
B's as columns, with R the sum of the ranks. Every merge here is `B̂ @ left @ right @ Â` for two small matrices, and
everything that is needed to find them is in two Gram matrices, Â Âᵀ and B̂ᵀ B̂ (R × R). So a module is read once to
be judged, once to be written, and nothing of the size of the base's weight ever exists. The Gram matrices are
float64: squaring halves the digits, and float32 factors have seven.

Averaging A and B separately (`fedavg`) is not averaging the updates: mean(B) @ mean(A) has cross terms B_i A_j that
nobody trained.

Pure functions on tensors: no files, no configuration, no adapters' names. Live rounds use it as it is.
"""

from __future__ import annotations

import threading
import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from pocketft.adapters.state import Factors

# Directions whose energy is below this part of the strongest one are rounding, not training (singular values below
# 1e-6).
NOISE = 1e-12

# PEFT's rules warn, and draw from torch's global generator: neither bears two threads at once.
_PEFT = threading.Lock()


@dataclass(frozen=True)
class ModuleGram:
    """Inner products of one module's stacked factors; rows of adapter i are a run of `ranks[i]`, 0 where it lacks
    the module.
    """

    a: Tensor  # (R, R) float64, Â Âᵀ
    b: Tensor  # (R, R) float64, B̂ᵀ B̂ with the scalings inside
    ranks: tuple[int, ...]

    def expand(self, per_adapter: Tensor) -> Tensor:
        """One number per adapter, repeated for each of its rows: (K,) -> (R,)."""
        return per_adapter.to(torch.float64).repeat_interleave(torch.tensor(self.ranks))

    def runs(self) -> list[slice]:
        stops = torch.tensor(self.ranks).cumsum(0).tolist()
        return [slice(stop - rank, stop) for rank, stop in zip(self.ranks, stops, strict=True)]


@dataclass(frozen=True)
class Combination:
    """A merged module, B̂ @ left @ right @ Â. `energy[i]` is what direction i adds to the squared norm, strongest
    first; None where the directions are not orthogonal and must not be cut."""

    left: Tensor  # (R, p) float32
    right: Tensor  # (p, R) float32
    energy: Tensor | None  # (p,) float64

    @property
    def rank(self) -> int:
        return self.left.shape[1]

    def truncated(self, rank: int) -> Combination:
        if rank >= self.rank:
            return self
        energy = None if self.energy is None else self.energy[:rank]
        return Combination(self.left[:, :rank], self.right[:rank], energy)


@dataclass(frozen=True)
class Mixture:
    """How much each adapter counts: `weights` sum to one, `scales` shrink an update that is too long (1 leaves it)."""

    weights: Tensor  # (K,) float64
    scales: Tensor  # (K,) float64

    @property
    def coefficients(self) -> Tensor:
        return self.weights * self.scales


def stack(factors: Sequence[Factors | None]) -> tuple[Tensor, Tensor]:
    """Â (R, in) and B̂ (out, R); None is an adapter without this module."""
    present = [factor for factor in factors if factor is not None]
    a = torch.cat([factor.a for factor in present])
    b = torch.cat([factor.b * factor.scaling for factor in present], dim=1)
    return a, b


def gram(a: Tensor, b: Tensor, ranks: Sequence[int]) -> ModuleGram:
    """From stacked Â (R, in) and B̂ (out, R)."""
    return ModuleGram(_row_products(a), _row_products(b.T), tuple(ranks))


def inner_products(module: ModuleGram) -> Tensor:
    """(K, K): <dW_i, dW_j> = s_i s_j tr((B_iᵀ B_j)(A_j A_iᵀ)), which is the sum of the two Gram blocks' elementwise
    product.
    """
    owner = torch.arange(len(module.ranks)).repeat_interleave(torch.tensor(module.ranks))
    member = torch.nn.functional.one_hot(owner, len(module.ranks)).double()  # (R, K)
    return member.T @ (module.a * module.b) @ member


def apply(combination: Combination, a: Tensor, b: Tensor) -> Factors:
    """The merged factors (rank, in) and (out, rank) from the stacked ones; their scaling is one."""
    return Factors(combination.right @ a, b @ combination.left, 1.0)


def exact(module: ModuleGram, mixture: Mixture) -> Combination:
    """The weighted mean of the products, in its own singular directions, balanced between A and B.

    With Â Âᵀ = G Gᵀ, the mean's squared singular values are the eigenvalues of Gᵀ (C B̂ᵀB̂ C) G, C the coefficients;
    cutting the weakest is the best approximation of that rank (Eckart-Young).
    """
    coefficients = module.expand(mixture.coefficients)
    root, inverse = _square_root(module.a)
    energy, directions = torch.linalg.eigh(_core(module, coefficients, root))
    energy, directions = energy.flip(0).clamp(min=0), directions.flip(1)
    rank = _numerical_rank(energy)
    energy, directions = energy[:rank], directions[:, :rank]
    balance = energy**0.25  # square root of the singular value
    left = coefficients[:, None] * (root @ (directions / balance))
    right = (directions * balance).T @ inverse
    return Combination(left.float(), right.float(), energy)


def spectrum(module: ModuleGram, mixture: Mixture) -> Tensor:
    """The energies of `exact` without its directions: squared singular values of the weighted mean, strongest first."""
    root, _ = _square_root(module.a)
    energy = torch.linalg.eigvalsh(_core(module, module.expand(mixture.coefficients), root)).flip(0).clamp(min=0)
    return energy[: _numerical_rank(energy)]


def fedavg(module: ModuleGram, mixture: Mixture) -> Combination:
    """mean(B) @ mean(A), as FedIT does. Ranks must be equal; an adapter without the module counts as zero in both
    factors.
    """
    left = _side_by_side(module, mixture.coefficients)
    right = _side_by_side(module, mixture.weights).T
    return Combination(left.float(), right.contiguous().float(), None)


def ffa(module: ModuleGram, mixture: Mixture) -> Combination:
    """mean(B) @ A for adapters that share one frozen A: exact, and no larger than any of them. See `shares_a`."""
    left = _side_by_side(module, mixture.coefficients)
    first = torch.zeros(len(module.ranks), dtype=torch.float64)
    first[next(index for index, rank in enumerate(module.ranks) if rank)] = 1.0
    return Combination(left.float(), _side_by_side(module, first).T.contiguous().float(), None)


def shares_a(module: ModuleGram, tolerance: float = 1e-5) -> bool:
    """Whether all adapters that have the module have the same A, judged by |A_i - A_j| / |A_i|."""
    if not equal_ranks(module):
        return False
    runs = [run for run in module.runs() if run.stop > run.start]
    first = runs[0]
    size = module.a[first, first].trace()
    distances = [size + module.a[run, run].trace() - 2 * module.a[first, run].trace() for run in runs[1:]]
    return all(bool(distance <= tolerance**2 * size) for distance in distances)


def equal_ranks(module: ModuleGram) -> bool:
    return len({rank for rank in module.ranks if rank}) == 1


def ties(module: ModuleGram, mixture: Mixture, density: float) -> Combination:
    """TIES in the reduced core space: trim each update to its largest entries, elect signs, average those that
    agree.
    """
    from peft.utils.merge_utils import ties as peft_ties

    return _in_core_space(module, mixture, lambda cores, weights: peft_ties(cores, weights, density))


def dare(module: ModuleGram, mixture: Mixture, density: float, generators: Sequence[int]) -> Combination:
    """DARE in the reduced core space: drop entries at random, scale the rest up, average. `generators` seeds each
    adapter's own draw, so that the order of adapters changes nothing."""
    from peft.utils.merge_utils import dare_linear

    def drop(cores: list[Tensor], weights: Tensor) -> Tensor:
        merged = torch.zeros_like(cores[0])
        for core, weight, seed in zip(cores, weights, generators, strict=True):
            with torch.random.fork_rng(devices=[]):
                torch.manual_seed(seed)
                merged += dare_linear([core], weight[None], density) / len(cores)
        return merged

    return _in_core_space(module, mixture, drop)


def cross_term_error(module: ModuleGram, mixture: Mixture, merged: Combination) -> tuple[float, float]:
    """(|merged - mean|², |mean|²) in the Frobenius norm: how far a factor-wise merge is from averaging the updates."""
    wanted = torch.diag(module.expand(mixture.coefficients))
    got = merged.left.double() @ merged.right.double()
    difference = got - wanted
    return _squared_norm(module, difference), _squared_norm(module, wanted)


def choose_rank(combinations: Sequence[Combination], energy: float, at_least: int = 0) -> int:
    """The smallest rank, one for all modules, that keeps `energy` (0 to 1) of the merge's squared norm."""
    spectra = [combination.energy for combination in combinations if combination.energy is not None]
    highest = max((len(spectrum) for spectrum in spectra), default=0)
    total = torch.zeros(highest, dtype=torch.float64)
    for spectrum in spectra:
        total[: len(spectrum)] += spectrum
    kept = total.cumsum(0)
    # One part in 1e12 forgives the rounding of the sums, so that energy 1 is reached by the last direction and not
    # never.
    enough = (kept >= (energy - NOISE) * kept[-1]).nonzero() if highest else torch.empty(0)
    rank = int(enough[0]) + 1 if len(enough) else 0
    return max(rank, min(at_least, highest), 1)


def _row_products(rows: Tensor) -> Tensor:
    """rows @ rowsᵀ in float64, computing little more than its upper half."""
    rows = rows.double()
    size = len(rows)
    products = torch.empty(size, size, dtype=torch.float64)
    for start in range(0, size, 80):
        block = slice(start, start + 80)
        products[block, start:] = rows[block] @ rows[start:].T
    return products.triu() + products.triu(1).T


def _square_root(gram: Tensor) -> tuple[Tensor, Tensor]:
    """(root (R, k), inverse (k, R)) with root @ rootᵀ = gram and inverse @ root = 1; k < R where rows depend on each
    other.

    Rows are brought to length one first, so that an adapter with a long A and a short B loses no digits to one with
    the opposite.
    """
    length = gram.diagonal().clamp(min=0).sqrt()
    length = torch.where(length > 0, length, torch.ones_like(length))
    unit = gram / length[:, None] / length
    root, failed = torch.linalg.cholesky_ex(unit)
    if not failed and root.diagonal().min() > 1e-4:
        identity = torch.diag(1 / length)
        return length[:, None] * root, torch.linalg.solve_triangular(root, identity, upper=False)
    # Dependent rows: the same A in several adapters, or more rows than the module has inputs.
    values, vectors = torch.linalg.eigh(unit)
    keep = values > NOISE * values[-1].clamp(min=1e-300)
    values, vectors = values[keep].sqrt(), vectors[:, keep]
    return length[:, None] * (vectors * values), (vectors / values).T / length


def _core(module: ModuleGram, coefficients: Tensor, root: Tensor) -> Tensor:
    """The weighted mean as seen from Â's directions, times its own transpose."""
    return root.T @ (module.b * coefficients[:, None] * coefficients) @ root


def _numerical_rank(energy: Tensor) -> int:
    """Of energies in falling order."""
    return int((energy > NOISE * energy[:1]).sum()) if len(energy) else 0


def _side_by_side(module: ModuleGram, per_adapter: Tensor) -> Tensor:
    """(R, r): identity blocks, one per adapter, each times its number. B̂ times this is the weighted sum of the B's."""
    rank = max(module.ranks)
    blocks = torch.zeros(sum(module.ranks), rank, dtype=torch.float64)
    for run, number in zip(module.runs(), per_adapter.tolist(), strict=True):
        if run.stop > run.start:
            blocks[run] = number * torch.eye(rank, dtype=torch.float64)
    return blocks


def _in_core_space(
    module: ModuleGram, mixture: Mixture, merge: Callable[[list[Tensor], Tensor], Tensor]
) -> Combination:
    """Write each update as U C_i Vᵀ with shared orthonormal U, V, merge the small C_i entry by entry, and go back.

    Entry-wise rules depend on the coordinates. U and V are the principal directions of all updates together, which
    neither the order of the adapters nor a change of their factors (A R⁻¹, R B) moves; signs cancel in the rules.
    Weights are given as shares times K, since `merge_utils` divides by the number of those that agree.
    """
    root_a, inverse_a = _square_root(module.a)
    root_b, inverse_b = _square_root(module.b)
    scales = mixture.scales.tolist()
    cores = [scale * root_b[run].T @ root_a[run] for run, scale in zip(module.runs(), scales, strict=True)]
    _, u = torch.linalg.eigh(torch.stack([core @ core.T for core in cores]).sum(0))
    _, v = torch.linalg.eigh(torch.stack([core.T @ core for core in cores]).sum(0))
    with _PEFT, warnings.catch_warnings():
        warnings.simplefilter("ignore")  # a density of one is meant
        merged = merge([u.T @ core @ v for core in cores], mixture.weights * len(cores))
    left, values, right = torch.linalg.svd(merged, full_matrices=False)
    rank = _numerical_rank(values**2)
    balance = values[:rank].sqrt()
    return Combination(
        (inverse_b.T @ (u @ (left[:, :rank] * balance))).float(),
        ((balance[:, None] * right[:rank]) @ v.T @ inverse_a).float(),
        values[:rank] ** 2,
    )


def _squared_norm(module: ModuleGram, middle: Tensor) -> float:
    """|B̂ @ middle @ Â|²"""
    return float(((middle.T @ module.b @ middle) * module.a).sum().clamp(min=0))
