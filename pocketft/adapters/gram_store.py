"""The Gram matrices of all modules between the two passes of a merge, in one block of memory.

Twenty adapters of rank 16 on 196 modules need 160 MB of them. Both matrices of a module are symmetric and share one
square, A's below the diagonal and B's above; the finished combination, two float32 matrices, then takes the place of
its module's square. Freed and allocated one by one the same matrices left holes in the heap and took 100 MB more.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch

from pocketft.adapters.aggregate import Combination, ModuleGram


class GramStore:
    """Holds one `ModuleGram` per module, or the `Combination` that has replaced it."""

    def __init__(self, ranks: Sequence[tuple[int, ...]]) -> None:
        """`ranks[m]` are the ranks of all adapters in module m."""
        self.ranks = ranks
        sizes = [sum(module) ** 2 for module in ranks]
        self._squares = torch.empty(sum(sizes), dtype=torch.float64).split(sizes)
        self._b_diagonals = [torch.empty(0)] * len(sizes)

    @staticmethod
    def bytes_for(ranks: Sequence[tuple[int, ...]]) -> int:
        return sum(8 * sum(module) ** 2 for module in ranks)

    def put(self, module: int, gram: ModuleGram) -> None:
        size = len(gram.a)
        square = self._squares[module].view(size, size)
        torch.tril(gram.a, out=square)
        square += gram.b.triu(1)
        self._b_diagonals[module] = gram.b.diagonal().clone()

    def get(self, module: int) -> ModuleGram:
        size = sum(self.ranks[module])
        square = self._squares[module].view(size, size)
        a, b = square.tril(), square.triu(1)
        return ModuleGram(a + a.tril(-1).T, b + b.T + torch.diag(self._b_diagonals[module]), self.ranks[module])

    def replace(self, module: int, combination: Combination) -> Combination:
        """The same combination, held where the module's Gram matrices were; they are gone."""
        halves = self._squares[module].view(torch.float32)
        left, right = halves.split(len(halves) // 2)
        size, rank = combination.left.shape
        kept_left = left[: size * rank].view(size, rank).copy_(combination.left)
        kept_right = right[: size * rank].view(rank, size).copy_(combination.right)
        return Combination(kept_left, kept_right, combination.energy)
