"""The inputs of blocks between the forward and the backward sweep: kept in memory, or written to an open file.

They are the one thing that grows with depth times tokens (71 MB for SmolLM2-135M at 2048 tokens a step). In a file
they cost one buffered write and one read a step, and no resident memory. Knows tensors and a file descriptor it is
given.
"""

from __future__ import annotations

import os
from typing import Any, Protocol

import torch
from torch import Tensor


class BlockInputs(Protocol):
    """A stack: what was pushed last comes back first, the same bits."""

    def push(self, hidden: Tensor) -> None: ...

    def pop(self) -> Tensor: ...


class InMemory:
    def __init__(self) -> None:
        self._inputs: list[Tensor] = []

    def push(self, hidden: Tensor) -> None:
        self._inputs.append(hidden)

    def pop(self) -> Tensor:
        return self._inputs.pop()


class InFile:
    """On an open file that nobody else uses; it is overwritten from its beginning whenever the stack is empty."""

    def __init__(self, descriptor: int) -> None:
        self._descriptor = descriptor
        self._inputs: list[tuple[int, torch.Size, torch.dtype, torch.device]] = []
        self._end = 0

    def push(self, hidden: Tensor) -> None:
        data = _bytes_of(hidden.detach().contiguous().cpu())
        written = 0
        while written < len(data):
            written += os.pwrite(self._descriptor, data[written:], self._end + written)
        self._inputs.append((self._end, hidden.shape, hidden.dtype, hidden.device))
        self._end += written

    def pop(self) -> Tensor:
        start, shape, dtype, device = self._inputs.pop()
        raw = torch.empty(self._end - start, dtype=torch.uint8)
        target, read = _bytes_of(raw), 0
        while read < len(target):
            count = os.preadv(self._descriptor, [target[read:]], start + read)
            if count == 0:
                raise OSError("the file of block inputs was cut short")
            read += count
        self._end = start
        return raw.view(dtype).view(shape).to(device)


def _bytes_of(tensor: Tensor) -> memoryview:
    array: Any = tensor.view(-1).view(torch.uint8).numpy()
    return memoryview(array)
