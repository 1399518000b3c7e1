"""Where a block's weights live while training, and how they come into use.

    dense      dequantized once, stays in memory
    packed     stays packed in memory, dequantized on use into one scratch buffer that all such blocks share
    streamed   read from the source into one fixed buffer by a thread that knows which is next, then as `packed`

A streamed block is dequantized into the scratch before it is used, so its buffer is free again while the block
computes: the next read overlaps with the arithmetic and one buffer is enough.

Knows packed tensors and linear groups; whoever provides the bytes is behind `WeightSource`.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor, wait
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from pocketft.engine.linear import LinearGroup
from pocketft.engine.packed import PackedTensor, dequantize
from pocketft.engine.weights import WeightSource

Residence = Literal["dense", "packed", "streamed"]
RESIDENCES: tuple[Residence, ...] = ("dense", "packed", "streamed")


@dataclass(frozen=True)
class GroupWeights:
    """`names` are the matrices that, stacked by rows, make the group's weight of `shape` (sum of out, in)."""

    group: LinearGroup
    names: tuple[str, ...]
    shape: tuple[int, int]

    @property
    def elements(self) -> int:
        return self.shape[0] * self.shape[1]


@dataclass(frozen=True)
class BlockWeights:
    """The groups of one decoder block and the name under which the source keeps it."""

    name: str
    groups: tuple[GroupWeights, ...]

    @property
    def elements(self) -> int:
        return sum(group.elements for group in self.groups)


class BlockResidency:
    """Binds weights to groups, block by block, in whatever order it is asked for."""

    def __init__(
        self,
        source: WeightSource,
        blocks: Sequence[BlockWeights],
        residences: Sequence[Residence],
        dtype: torch.dtype,
        device: torch.device,
    ) -> None:
        self._source, self._blocks, self.residences = source, blocks, list(residences)
        self._dtype, self._device = dtype, device
        self._packed: dict[int, dict[str, PackedTensor]] = {}
        self._in_scratch: int | None = None
        self._sweeping = False
        self._reading: tuple[int, Future[dict[str, PackedTensor]]] | None = None
        self._reader: ThreadPoolExecutor | None = None
        self._buffer = torch.empty(0, dtype=torch.uint8)
        self._scratch = torch.empty(0, dtype=dtype, device=device)
        self._to_load = list(range(len(blocks)))
        self._load_all()

    def bind(self, index: int, upcoming: int | None = None) -> None:
        """Make block `index` usable; start reading `upcoming` if it is streamed. Earlier shared blocks lose their
        weights.
        """
        if self._to_load:
            self._load_all()
        if self.residences[index] != "dense" and self._in_scratch != index:
            self._unbind_scratch()
            packed = self._packed[index] if self.residences[index] == "packed" else self._read(index)
            self._dequantize(self._blocks[index], packed, self._scratch)
            self._in_scratch = index
        if upcoming is not None and upcoming != index and self.residences[upcoming] == "streamed":
            self._prefetch(upcoming)

    def move(self, index: int, residence: Residence) -> None:
        """Let block `index` live elsewhere from now on. Between blocks only: the one in the scratch loses its weights,
        and what is needed of the moved one is read from the source again; at its next use, where memory is refused now.
        """
        self._unbind_scratch()
        self._unbind(index)
        self._packed.pop(index, None)
        self.residences[index] = residence
        self._to_load.append(index)
        self._load_all()

    def dense_bytes(self) -> tuple[int, ...]:
        """Of each block's matrices, once dequantized."""
        return tuple(block.elements * self._dtype.itemsize for block in self._blocks)

    def packed_bytes(self) -> tuple[int, ...]:
        """Of each block as the source keeps it."""
        return tuple(self._source.block_spec(block.name).nbytes for block in self._blocks)

    def sweep(self, order: Sequence[int]) -> Iterator[int]:
        """Yield block indices in `order`, each bound while it is current."""
        self._sweeping = True
        try:
            for place, index in enumerate(order):
                self.bind(index, order[place + 1] if place + 1 < len(order) else None)
                yield index
        finally:
            self._sweeping = False

    def bind_in_turn(self, index: int) -> None:
        """For blocks that run in the model's own order, as in generation. Inside a sweep, the sweep has bound them."""
        if not self._sweeping:
            self.bind(index, (index + 1) % len(self._blocks))

    def close(self) -> None:
        if self._reader is not None:
            self._reader.shutdown(wait=True, cancel_futures=True)

    def _load_all(self) -> None:
        self._make_room()
        while self._to_load:
            self._load(self._to_load[0], self.residences[self._to_load[0]])
            del self._to_load[0]

    def _load(self, index: int, residence: Residence) -> None:
        if residence == "dense":
            block = self._blocks[index]
            dense = torch.empty(block.elements, dtype=self._dtype, device=self._device)
            self._dequantize(block, self._source.read_block(block.name), dense)
        elif residence == "packed":
            self._packed[index] = self._on_device(self._source.read_block(self._blocks[index].name))

    def _prefetch(self, index: int) -> None:
        if self._reading is not None and self._reading[0] == index:
            return
        if self._reading is not None:
            wait([self._reading[1]])  # what it read, or failed to read, is no longer asked for
        assert self._reader is not None
        job = self._reader.submit(self._source.read_block, self._blocks[index].name, self._buffer)
        self._reading = (index, job)

    def _read(self, index: int) -> dict[str, PackedTensor]:
        self._prefetch(index)
        assert self._reading is not None
        job, self._reading = self._reading[1], None
        return self._on_device(job.result())

    def _dequantize(self, block: BlockWeights, packed: Mapping[str, PackedTensor], into: Tensor) -> None:
        offset = 0
        for weights in block.groups:
            weight = into[offset : offset + weights.elements].view(weights.shape)
            offset += weights.elements
            row = 0
            for name in weights.names:
                tensor = packed[name]
                dequantize(tensor, weight[row : row + tensor.shape[0]])
                row += tensor.shape[0]
            weights.group.weight = weight

    def _unbind_scratch(self) -> None:
        if self._in_scratch is not None:
            self._unbind(self._in_scratch)
            self._in_scratch = None

    def _unbind(self, index: int) -> None:
        for weights in self._blocks[index].groups:
            weights.group.weight = None

    def _on_device(self, packed: Mapping[str, PackedTensor]) -> dict[str, PackedTensor]:
        return {name: tensor.to(self._device) for name, tensor in packed.items()}

    def _make_room(self) -> None:
        """What the blocks that are not dense share: the scratch, and for streamed ones the buffer and its reader."""
        elements = max(
            (b.elements for b, r in zip(self._blocks, self.residences, strict=True) if r != "dense"), default=0
        )
        if elements > len(self._scratch):
            self._scratch = torch.empty(0, dtype=self._dtype, device=self._device)  # the smaller one goes first
            self._scratch = torch.empty(elements, dtype=self._dtype, device=self._device)
        streamed = (b.name for b, r in zip(self._blocks, self.residences, strict=True) if r == "streamed")
        nbytes = max((self._source.block_spec(name).nbytes for name in streamed), default=0)
        if nbytes > len(self._buffer):
            self._buffer = torch.empty(nbytes, dtype=torch.uint8)  # a read under way keeps the one before
        if nbytes and self._reader is None:
            self._reader = ThreadPoolExecutor(1, "pocketft-read")
