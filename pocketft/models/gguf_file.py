"""Reading a GGUF file's header, distrusting every number in it.

Knows the file format (magic, metadata, tensor table, alignment) and checks each length and offset against the file's
size before anything is allocated or mapped, so a truncated or hostile file is one clear error. Knows nothing of
models; tensor bytes come as a memory map of whole rows.
"""

from __future__ import annotations

import mmap
import struct
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NoReturn

import numpy as np
import torch

from pocketft.errors import ModelError
from pocketft.models.gguf_types import GGUF_TYPES, GgufType

_MAGIC = b"GGUF"
_VERSIONS = (2, 3)
_SCALARS = {0: "B", 1: "b", 2: "H", 3: "h", 4: "I", 5: "i", 6: "f", 7: "?", 10: "Q", 11: "q", 12: "d"}
_STRING, _ARRAY = 8, 9
_MAX_NAME_BYTES = 65535
_MAX_DIMENSIONS = 4

# ggml types without a packing, by name, so that the error can say which. Numbers are part of the file format.
_OTHER_TYPES = {
    9: "Q8_1", 15: "Q8_K", 16: "IQ2_XXS", 17: "IQ2_XS", 18: "IQ3_XXS", 19: "IQ1_S", 21: "IQ3_S", 22: "IQ2_S", 24: "I8",
    25: "I16", 26: "I32", 27: "I64", 28: "F64", 29: "IQ1_M", 34: "TQ1_0", 35: "TQ2_0", 39: "MXFP4",
}  # fmt: skip


@dataclass(frozen=True)
class GgufTensor:
    name: str
    shape: tuple[int, ...]  # rows first, as torch counts
    type: GgufType
    offset: int  # bytes from the start of the file
    nbytes: int


@dataclass(frozen=True)
class GgufFile:
    path: Path
    metadata: dict[str, Any]  # scalars and strings; of an array only its length, as ("array", n)
    tensors: dict[str, GgufTensor]
    # Where each metadata entry lies, [start, stop) in bytes: another file can take it over without parsing it.
    entries: Mapping[str, tuple[int, int]] = field(default_factory=dict)

    def raw_rows(self, name: str) -> np.ndarray:
        """The tensor's bytes, (rows, bytes per row), mapped and not read. A vector counts as one row per item."""
        tensor = self.tensors[name]
        mapped = np.memmap(self.path, dtype=np.uint8, mode="r", offset=tensor.offset, shape=(tensor.nbytes,))
        return mapped.reshape(tensor.shape[0], -1)

    def values(self, name: str) -> torch.Tensor:
        """A small unquantized tensor as float32."""
        tensor = self.tensors[name]
        raw = torch.from_numpy(np.array(self.raw_rows(name)))
        return tensor.type.parts(raw)["data"].float().reshape(tensor.shape)


def read_gguf(path: Path) -> GgufFile:
    """Parse and check the header. Raises ModelError, one line, for anything that is not a whole, usable GGUF file."""
    try:
        with path.open("rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as data:
            return _Header(path, data).parse()
    except ValueError as error:  # an empty file cannot be mapped
        raise ModelError(f"{path} is empty; fetch or copy it again") from error
    except OSError as error:
        raise ModelError(f"cannot read {path}: {error.strerror}; check the path and its permissions") from error


class _Header:
    """A cursor over the mapped file."""

    def __init__(self, path: Path, data: mmap.mmap) -> None:
        self.path = path
        self.data = data
        self.size = len(data)
        self.at = 0

    def parse(self) -> GgufFile:
        if self._take(4) != _MAGIC:
            raise ModelError(f"{self.path} is not a GGUF file; give a .gguf file or a folder with safetensors")
        version = self._number("I")
        if version not in _VERSIONS:
            raise ModelError(f"{self.path} has GGUF version {version} (or another byte order); convert it to version 3")
        tensor_count, entry_count = self._number("Q"), self._number("Q")
        if tensor_count > self.size or entry_count > self.size:
            self._damaged(f"it claims {tensor_count} tensors and {entry_count} metadata entries")
        metadata: dict[str, Any] = {}
        spans: dict[str, tuple[int, int]] = {}
        for _ in range(entry_count):
            at = self.at
            key = self._string(_MAX_NAME_BYTES)
            metadata[key] = self._value(self._number("I"))
            spans[key] = (at, self.at)
        if metadata.get("split.count", 0) not in (0, 1):
            raise ModelError(
                f"{self.path} is one of {metadata['split.count']} parts; join them first (llama-gguf-split --merge)"
            )
        listed = [self._tensor_entry() for _ in range(tensor_count)]
        alignment = metadata.get("general.alignment", 32)
        if not isinstance(alignment, int) or alignment <= 0 or alignment & (alignment - 1) or alignment > 1 << 20:
            self._damaged(f"its alignment is {alignment}")
        start = -(-self.at // alignment) * alignment
        tensors: dict[str, GgufTensor] = {}
        for name, shape, number, offset in listed:
            if name in tensors:
                self._damaged(f"tensor {name} appears twice")
            tensors[name] = self._tensor(name, shape, number, start + offset)
        return GgufFile(self.path, metadata, tensors, spans)

    def _tensor_entry(self) -> tuple[str, tuple[int, ...], int, int]:
        name = self._string(_MAX_NAME_BYTES)
        dimensions = self._number("I")
        if not 1 <= dimensions <= _MAX_DIMENSIONS:
            self._damaged(f"tensor {name} has {dimensions} dimensions")
        sizes = [self._number("Q") for _ in range(dimensions)]
        return name, tuple(reversed(sizes)), self._number("I"), self._number("Q")

    def _tensor(self, name: str, shape: tuple[int, ...], number: int, offset: int) -> GgufTensor:
        gguf_type = GGUF_TYPES.get(number)
        if gguf_type is None:
            kind = _OTHER_TYPES.get(number, f"number {number}")
            known = ", ".join(known.name for known in GGUF_TYPES.values())
            raise ModelError(
                f"{self.path}: tensor {name} has type {kind}, which cannot be trained on; use a file with {known}"
            )
        numel = 1
        for size in shape:
            numel *= size
        if numel == 0 or shape[-1] % gguf_type.block_weights:
            self._damaged(f"tensor {name} has shape {shape}, impossible for {gguf_type.name}")
        nbytes = gguf_type.row_bytes(shape[-1]) * (numel // shape[-1])
        if offset + nbytes > self.size:
            raise ModelError(
                f"{self.path} is truncated or damaged: tensor {name} ends at byte {offset + nbytes} and the file has "
                f"{self.size}; fetch it again"
            )
        return GgufTensor(name, shape, gguf_type, offset, nbytes)

    def _value(self, number: int) -> Any:
        if number in _SCALARS:
            return self._number(_SCALARS[number])
        if number == _STRING:
            return self._string(self.size)
        if number != _ARRAY:
            self._damaged(f"a metadata entry has unknown type {number}")
        item, length = self._number("I"), self._number("Q")
        if item in _SCALARS:
            self._skip(length * struct.calcsize("<" + _SCALARS[item]))
        elif item == _STRING:
            if length > self.size // 8:
                self._damaged(f"an array claims {length} strings")
            for _ in range(length):
                self._skip(self._number("Q"))
        else:
            self._damaged(f"an array holds items of unknown type {item}")
        return ("array", length)

    def _string(self, limit: int) -> str:
        length = self._number("Q")
        if length > limit:
            self._damaged(f"a name claims {length} bytes")
        return self._take(length).decode("utf-8", errors="replace")

    def _number(self, code: str) -> Any:
        return struct.unpack("<" + code, self._take(struct.calcsize("<" + code)))[0]

    def _take(self, count: int) -> bytes:
        start = self.at
        self._skip(count)
        return self.data[start : self.at]

    def _skip(self, count: int) -> None:
        if count > self.size - self.at:
            raise ModelError(f"{self.path} is truncated or damaged: its header runs past its end; fetch it again")
        self.at += count

    def _damaged(self, why: str) -> NoReturn:
        raise ModelError(f"{self.path} is damaged: {why}; fetch it again")
