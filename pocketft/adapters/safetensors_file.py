"""Reading and writing one safetensors file tensor by tensor, with the header judged before anything else is touched.

The safetensors library maps the whole file, and every page that was looked at then counts as this process's memory;
twenty adapters would not fit under a cap. So bytes are read with plain reads at the offsets of the header, and
written in one pass without holding more than one tensor. Knows the format and nothing of what the tensors mean.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from pocketft.errors import AdapterError

MAX_HEADER_BYTES = 16 << 20
MAX_TENSOR_BYTES = 16 << 30
MAX_DIMENSION = 1 << 24

DTYPES: Mapping[str, torch.dtype] = {
    "F64": torch.float64,
    "F32": torch.float32,
    "F16": torch.float16,
    "BF16": torch.bfloat16,
}
_NAMES = {dtype: name for name, dtype in DTYPES.items()}


@dataclass(frozen=True)
class TensorEntry:
    """Where a tensor lies in its file; offsets count from the start of the file."""

    dtype: torch.dtype
    shape: tuple[int, ...]
    start_byte: int
    stop_byte: int


@dataclass(frozen=True)
class TensorSpec:
    dtype: torch.dtype
    shape: tuple[int, ...]

    @property
    def nbytes(self) -> int:
        return math.prod(self.shape) * self.dtype.itemsize


def read_header(path: Path) -> dict[str, TensorEntry]:
    """The tensors that the file holds, every size checked against the file's own. Reads the header only.

    Raises AdapterError for a pickle, a header that does not fit its file, unknown element types and absurd
    dimensions.
    """
    size = path.stat().st_size
    with path.open("rb") as file:
        first, brace = file.read(8), file.read(1)
        header_bytes = int.from_bytes(first, "little")
        # A header may happen to be 640 or 19,280 bytes long, whose first bytes are a pickle's; its "{" tells.
        plausible = header_bytes <= size - 8 and brace == b"{"
        if not plausible and (first[:1] == b"\x80" or first[:2] == b"PK"):
            raise AdapterError(
                f"{path}: this is a pickle under another name, and reading it could run code; "
                "convert it to safetensors where it was made"
            )
        if len(first) < 8 or header_bytes > size - 8:
            raise AdapterError(f"{path}: not a safetensors file, or cut short; copy it again")
        if header_bytes > MAX_HEADER_BYTES:
            raise AdapterError(f"{path}: the header alone claims {header_bytes:,} bytes; this is no adapter")
        raw = brace + file.read(max(0, header_bytes - 1))
    try:
        header = json.loads(raw, object_pairs_hook=_without_duplicates)
    except (ValueError, RecursionError) as error:
        raise AdapterError(f"{path}: damaged header ({str(error)[:80]}); copy the file again") from None
    if not isinstance(header, dict):
        raise AdapterError(f"{path}: damaged header (no table of tensors); copy the file again")
    header.pop("__metadata__", None)
    data_start = 8 + header_bytes
    entries = {name: _entry(path, name, value, data_start) for name, value in header.items()}
    _check_layout(path, entries, data_start, size)
    return entries


def read_tensor(path: Path, entry: TensorEntry) -> Tensor:
    """The tensor in float32, in memory of its own."""
    with path.open("rb", buffering=0) as file:
        file.seek(entry.start_byte)
        data = bytearray(entry.stop_byte - entry.start_byte)
        view, done = memoryview(data), 0
        while done < len(data):
            count = file.readinto(view[done:])
            if not count:
                raise AdapterError(f"{path}: shorter than when it was opened; is something still writing it?")
            done += count
    if not data:
        return torch.zeros(entry.shape)
    return torch.frombuffer(data, dtype=entry.dtype).view(entry.shape).float()


def write_tensors(path: Path, specs: Mapping[str, TensorSpec], tensors: Iterable[tuple[str, Tensor]]) -> None:
    """Write `tensors`, which come in the order of `specs`, each held only while it is written.

    `path` is a temporary name of `pocketft.files`: this function neither renames nor flushes to disk.
    """

    def whole() -> Iterator[tuple[str, Tensor]]:
        for name, tensor in tensors:
            if name in specs and tuple(tensor.shape) != specs[name].shape:
                raise ValueError(f"{name} {tuple(tensor.shape)} was written where {specs[name].shape} belongs")
            yield name, tensor

    write_pieces(path, specs, whole())


def write_pieces(path: Path, specs: Mapping[str, TensorSpec], pieces: Iterable[tuple[str, Tensor]]) -> None:
    """As `write_tensors`, for tensors that come in pieces: some rows, then the next ones."""
    header: dict[str, Any] = {"__metadata__": {"format": "pt"}}
    offset = 0
    for name, spec in specs.items():
        header[name] = {
            "dtype": _NAMES[spec.dtype],
            "shape": list(spec.shape),
            "data_offsets": [offset, offset + spec.nbytes],
        }
        offset += spec.nbytes
    text = json.dumps(header, separators=(",", ":"), ensure_ascii=False).encode()
    text += b" " * (-len(text) % 8)  # data starts at a multiple of eight, as the format asks
    waiting = iter(specs.items())
    current, missing_bytes = "", 0
    with path.open("wb") as file:
        file.write(len(text).to_bytes(8, "little") + text)
        for name, piece in pieces:
            if not missing_bytes:
                current, spec = next(waiting)
                missing_bytes = spec.nbytes
            missing_bytes -= piece.numel() * spec.dtype.itemsize
            if name != current or missing_bytes < 0 or piece.shape[1:] != spec.shape[1:]:
                raise ValueError(f"{name} {tuple(piece.shape)} was written where {current} {spec.shape} belongs")
            file.write(piece.detach().to(spec.dtype).contiguous().flatten().view(torch.uint8).numpy().data)
    if missing_bytes or next(waiting, None) is not None:
        raise ValueError("fewer tensors were written than the header names")


def _without_duplicates(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    table = dict(pairs)
    if len(table) != len(pairs):
        raise ValueError("a name occurs twice")
    return table


def _entry(path: Path, name: str, value: Any, data_start: int) -> TensorEntry:
    try:
        dtype, shape, (start, stop) = value["dtype"], value["shape"], value["data_offsets"]
        numbers = [*shape, start, stop]
        if not all(type(number) is int and number >= 0 for number in numbers):
            raise TypeError
    except (KeyError, TypeError, ValueError):
        raise AdapterError(f"{path}: damaged header at {name[:120]!r}; copy the file again") from None
    if dtype not in DTYPES:
        raise AdapterError(f"{path}: {name[:120]} has elements of type {str(dtype)[:20]}, where an adapter has floats")
    if any(number > MAX_DIMENSION for number in shape):
        raise AdapterError(f"{path}: {name[:120]} claims the shape {tuple(shape)}; no adapter is that large")
    entry = TensorEntry(DTYPES[dtype], tuple(shape), data_start + start, data_start + stop)
    claimed = math.prod(shape) * entry.dtype.itemsize
    if claimed > MAX_TENSOR_BYTES:
        raise AdapterError(f"{path}: {name[:120]} claims the shape {tuple(shape)}; no adapter is that large")
    if claimed != stop - start:
        raise AdapterError(f"{path}: damaged header at {name[:120]!r} (shape and length disagree); copy the file again")
    return entry


def _check_layout(path: Path, entries: Mapping[str, TensorEntry], data_start: int, size: int) -> None:
    """Tensors must tile the data exactly: a hole could carry anything, an overlap is a lie, a short file is cut."""
    position = data_start
    for entry in sorted(entries.values(), key=lambda entry: (entry.start_byte, entry.stop_byte)):
        if entry.start_byte != position:
            raise AdapterError(f"{path}: damaged (tensors overlap or leave holes); copy the file again")
        position = entry.stop_byte
    if position != size:
        raise AdapterError(
            f"{path}: the header speaks of {position:,} bytes and the file has {size:,}; "
            "copy it again, it may have been cut short"
        )
