"""Where the engine gets frozen weights from: the shape of a model's blocks, and a way to read one block.

Knows no files: `models/block_store.py` implements the protocol, and tests implement it over tensors in memory.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

from torch import Tensor

from pocketft.engine.packed import PackedTensor


@dataclass(frozen=True)
class PartSpec:
    """One part of a packed tensor inside a block's bytes."""

    name: str
    dtype: str  # as torch names it: "uint8", "float16"
    shape: tuple[int, ...]
    offset: int  # bytes from the start of the block, a multiple of 64
    nbytes: int


@dataclass(frozen=True)
class TensorSpec:
    """One packed tensor of a block: `name` is the parameter's full name in the transformers model."""

    name: str
    kind: str
    shape: tuple[int, ...]
    parts: tuple[PartSpec, ...]
    group_size: int = 0
    zero_point: int = 0

    @property
    def nbytes(self) -> int:
        return sum(part.nbytes for part in self.parts)

    @property
    def numel(self) -> int:
        count = 1
        for size in self.shape:
            count *= size
        return count


@dataclass(frozen=True)
class BlockSpec:
    """One block: what a single contiguous read of `nbytes` brings."""

    name: str
    nbytes: int
    tensors: tuple[TensorSpec, ...]


class WeightSource(Protocol):
    """The frozen weights of one model, block by block.

    Names, in the order of a forward pass: "embedding", "block.0" … "block.N-1", "norm", and "head" where the head is
    not tied to the embedding.
    """

    def block_names(self) -> Sequence[str]: ...

    def block_spec(self, name: str) -> BlockSpec:
        """Sizes, kinds and shapes, without reading weights."""
        ...

    def read_block(self, name: str, buffer: Tensor | None = None) -> dict[str, PackedTensor]:
        """Parameter name -> packed tensor. The parts are views of one uint8 buffer: `buffer` (at least `nbytes` long)
        or, where none is given, a fresh one."""
        ...

    def read_tensors(self, name: str, tensor_names: Sequence[str]) -> dict[str, PackedTensor]:
        """Only these tensors of block `name`, in memory of their own: norms and biases, without the matrices."""
        ...
