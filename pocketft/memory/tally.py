"""What a computation holds at its worst and what it costs, found by running it on shapes alone.

On the meta device every operation is carried out but for the numbers, so allocation and release happen in the true
order, autograd's saved tensors included. Knows torch's dispatcher; nothing of models.
"""

from __future__ import annotations

import weakref
from dataclasses import dataclass
from typing import Any

from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

_PRODUCTS = frozenset(f"aten::{name}" for name in ("mm", "addmm", "addmm_", "bmm", "baddbmm", "baddbmm_"))


# Shapes of both factors, whether each is transposed, whether something is added: what one compiled kernel serves.
Product = tuple[tuple[int, ...], tuple[int, ...], tuple[bool, bool], bool]


@dataclass(frozen=True)
class Cost:
    """Floating point operations of matrix products, bytes that all operations read and write, and their number."""

    flops: float = 0.0
    moved_bytes: float = 0.0
    operations: float = 0.0

    def __add__(self, other: Cost) -> Cost:
        return Cost(self.flops + other.flops, self.moved_bytes + other.moved_bytes, self.operations + other.operations)

    def __mul__(self, times: float) -> Cost:
        return Cost(self.flops * times, self.moved_bytes * times, self.operations * times)


class Tally(TorchDispatchMode):
    """While active, counts the bytes of every storage created and not yet freed (`peak` is the most at any time), adds
    up the cost of what is computed, and remembers in `products` which matrix products were of different shapes."""

    def __init__(self) -> None:
        super().__init__()
        self.current = 0
        self.peak = 0
        self.cost = Cost()
        self.products: set[Product] = set()
        self._known: set[int] = set()

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        operands = [t for t in tree_leaves(args) if isinstance(t, Tensor)]
        inputs = [*operands, *(t for t in tree_leaves(kwargs or {}) if isinstance(t, Tensor))]  # out= among them
        given = {t.untyped_storage()._cdata for t in inputs}
        result = func(*args, **(kwargs or {}))
        outputs = [t for t in tree_leaves(result) if isinstance(t, Tensor)]
        made = [t for t in outputs if t.untyped_storage()._cdata not in given]
        for tensor in made:
            self._add(tensor)
        if made or func._schema.is_mutable:  # else a view, which costs nothing
            self.cost += _cost(func._schema.name, operands, outputs)
            if func._schema.name in _PRODUCTS:
                self.products.add(_kind_of_product(operands))
        return result

    def _add(self, tensor: Tensor) -> None:
        storage = tensor.untyped_storage()
        key, size = storage._cdata, storage.nbytes()
        if key in self._known:
            return
        self._known.add(key)
        self.current += size
        self.peak = max(self.peak, self.current)
        weakref.finalize(storage, self._remove, key, size)

    def _remove(self, key: int, size: int) -> None:
        self._known.discard(key)
        self.current -= size


def _kind_of_product(operands: list[Tensor]) -> Product:
    left, right = operands[-2:]
    is_transposed = (left.stride(-1) != 1, right.stride(-1) != 1)
    return (tuple(left.shape), tuple(right.shape), is_transposed, len(operands) > 2)


def _cost(name: str, operands: list[Tensor], outputs: list[Tensor]) -> Cost:
    moved = sum(t.numel() * t.itemsize for t in (*operands, *outputs))
    if name not in _PRODUCTS:
        return Cost(0.0, moved, 1)
    left, right = operands[-2:]  # of addmm and baddbmm, the first is what is added to
    return Cost(2.0 * left.numel() * right.shape[-1], moved, 1)
