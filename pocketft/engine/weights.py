"""Where the engine gets frozen weights from: the shape of a model's blocks, and a way to read one block.

Knows no files: `models/block_store.py` implements the protocol, and tests implement it over tensors in memory.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

import torch
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

    def read_rows(self, name: str, tensor_name: str, ranges: Sequence[tuple[int, int]]) -> PackedTensor:
        """The rows start:stop of each of `ranges`, one after another, of one tensor of block `name`."""
        ...

    def read_tensors(self, name: str, tensor_names: Sequence[str]) -> dict[str, PackedTensor]:
        """Only these tensors of block `name`, in memory of their own: norms and biases, without the matrices."""
        ...


class StreamedRows:
    """The rows of a block's only matrix, read from the source whenever they are asked for: `Rows` without memory."""

    def __init__(self, source: WeightSource, block: str, device: torch.device) -> None:
        self._source, self._block, self._device = source, block, device
        (self._spec,) = source.block_spec(block).tensors

    @property
    def shape(self) -> tuple[int, ...]:
        return self._spec.shape

    def rows(self, start: int, stop: int) -> PackedTensor:
        return self._read([(start, stop)])

    def take(self, ids: Tensor) -> PackedTensor:
        distinct, places = ids.cpu().unique(return_inverse=True)
        return self._read([(row, row + 1) for row in distinct.tolist()]).take(places.to(self._device))

    def _read(self, ranges: Sequence[tuple[int, int]]) -> PackedTensor:
        return self._source.read_rows(self._block, self._spec.name, ranges).to(self._device)
