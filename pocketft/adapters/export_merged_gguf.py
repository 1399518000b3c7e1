"""An adapter folded into the GGUF it was trained on: a GGUF again, in Q8_0 or F16, for everything that runs llama.cpp.

Everything that is not a weight is taken over from the base's file byte by byte: the vocabulary of a large model, read
through the gguf package and written again, would cost most of a minute and 700 MB. Weights go through a few rows at a
time; `gguf.quants` rounds them.
"""

from __future__ import annotations

import struct
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
import torch

from pocketft.adapters.export_merged import ROWS_WEIGHTS, Progress, Rounding, update_rows
from pocketft.adapters.export_names import GgufNames
from pocketft.adapters.state import AdapterState, Factors
from pocketft.engine.packed import PackedTensor, dequantize
from pocketft.errors import AdapterError, UsageError
from pocketft.files import atomic_path, require_space
from pocketft.models.gguf_file import GgufFile, GgufTensor, read_gguf

_ALIGNMENT = 32
_FILE_TYPES = {"f16": 1, "q8_0": 7}  # general.file_type, llama.cpp's names MOSTLY_F16 and MOSTLY_Q8_0
_UINT32 = 4
_LEFT_OUT = ("general.file_type", "general.alignment", "general.quantization_version", "quantize.", "split.")


@dataclass(frozen=True)
class Target:
    """A tensor of the file to write. `kind` is gguf's GGMLQuantizationType."""

    source: GgufTensor
    kind: Any
    row_bytes: int
    factors: Callable[[], Factors] | None  # the update, its rows in llama.cpp's order

    @property
    def nbytes(self) -> int:
        return self.source.shape[0] * self.row_bytes if len(self.source.shape) > 1 else self.row_bytes


def write_merged_gguf(
    path: Path,
    adapter: AdapterState,
    base: Path,
    names: GgufNames,
    quantize: str,
    progress: Progress = lambda done, total: None,
) -> Rounding:
    """Write the merged model whole or not at all. `quantize`: "f16" or "q8_0"."""
    file = read_gguf(base)
    targets = merged_tensors(file, adapter, names, quantize)
    require_space(path, sum(target.nbytes for target in targets))
    with atomic_path(path) as temporary:
        return write_merged_gguf_file(temporary, file, targets, quantize, progress)


def write_merged_gguf_file(
    path: Path, file: GgufFile, targets: list[Target], quantize: str, progress: Progress
) -> Rounding:
    rounding, done = Rounding(), 0
    total = sum(target.nbytes for target in targets)
    with path.open("wb") as output:
        _write_header(output, file, targets, quantize)
        for target in targets:
            _pad(output)
            for rows in _rows(file, target, rounding):
                output.write(rows.tobytes())
            done += target.nbytes
            progress(done, total)
        _pad(output)
    return rounding


def merged_tensors(file: GgufFile, adapter: AdapterState, names: GgufNames, quantize: str) -> list[Target]:
    import gguf

    changed = {names.tensor(module): module for module in adapter.info.modules}
    absent = next((name for name in changed if name not in file.tensors), None)
    if absent is not None:
        raise UsageError(f"{file.path} has no tensor {absent} for the adapter's {changed[absent]:.100}")
    targets = []
    for name, tensor in file.tensors.items():
        columns = tensor.shape[-1]
        if len(tensor.shape) == 1:
            kind = gguf.GGMLQuantizationType.F32
        elif quantize == "q8_0" and columns % 32 == 0:
            kind = gguf.GGMLQuantizationType.Q8_0
        else:
            kind = gguf.GGMLQuantizationType.F16
        block, block_bytes = gguf.GGML_QUANT_SIZES[kind]
        factors = _factors(adapter, changed[name], names) if name in changed else None
        targets.append(Target(tensor, kind, columns // block * block_bytes, factors))
    return targets


def _factors(adapter: AdapterState, module: str, names: GgufNames) -> Callable[[], Factors]:
    def read() -> Factors:
        found = adapter.factors(module)
        order = names.row_order(module, len(found.b))
        return found if order is None else Factors(found.a, found.b[order], found.scaling)

    return read


def _rows(file: GgufFile, target: Target, rounding: Rounding) -> Iterator[np.ndarray]:
    from gguf import quants

    source = target.source
    if len(source.shape) == 1:
        yield file.values(source.name).numpy()
        return
    factors = target.factors() if target.factors is not None else None
    layout = source.type.layout
    step = max(1, ROWS_WEIGHTS // source.shape[1])
    for start in range(0, source.shape[0], step):
        stop = min(start + step, source.shape[0])
        parts = source.type.parts(_read_rows(file, source, start, stop))
        shape = (stop - start, source.shape[1])
        exact = torch.empty(shape)
        dequantize(PackedTensor(layout.kind, shape, parts, layout.group_size, layout.zero_point), exact)
        if factors is not None:
            update = update_rows(factors, start, stop)
            exact += update
        with np.errstate(over="ignore"):  # told below, as an error
            stored = quants.quantize(exact.numpy(), target.kind)
        if stored.dtype == np.float16 and not np.isfinite(stored).all():
            raise AdapterError(f"{source.name} has values beyond float16; export with --quantize q8_0")
        if factors is not None:
            back = torch.from_numpy(np.ascontiguousarray(quants.dequantize(stored, target.kind)))
            rounding.add(exact, back.view(shape), update)
        yield stored


def _read_rows(file: GgufFile, source: GgufTensor, start: int, stop: int) -> torch.Tensor:
    """Rows as they lie in the file, (rows, bytes), read and not mapped: mapped pages would count against the cap."""
    row_bytes = source.nbytes // source.shape[0]
    with file.path.open("rb", buffering=0) as base:
        base.seek(source.offset + start * row_bytes)
        raw = bytearray(base.read((stop - start) * row_bytes))
    if len(raw) != (stop - start) * row_bytes:
        raise AdapterError(f"{file.path} became shorter while it was read; fetch it again")
    return torch.frombuffer(raw, dtype=torch.uint8).view(stop - start, row_bytes)


def _write_header(output: BinaryIO, file: GgufFile, targets: list[Target], quantize: str) -> None:
    kept = [span for key, span in file.entries.items() if not key.startswith(_LEFT_OUT)]
    own = {"general.file_type": _FILE_TYPES[quantize], "general.quantization_version": 2}
    output.write(b"GGUF" + struct.pack("<IQQ", 3, len(targets), len(kept) + len(own)))
    with file.path.open("rb") as base:
        for start, stop in kept:
            base.seek(start)
            output.write(base.read(stop - start))
    for key, value in own.items():
        output.write(_string(key) + struct.pack("<II", _UINT32, value))
    offset = 0
    for target in targets:
        shape = target.source.shape
        output.write(_string(target.source.name) + struct.pack("<I", len(shape)))
        output.write(struct.pack(f"<{len(shape)}Q", *reversed(shape)))
        output.write(struct.pack("<IQ", int(target.kind), offset))
        offset += -(-target.nbytes // _ALIGNMENT) * _ALIGNMENT


def _string(text: str) -> bytes:
    raw = text.encode()
    return struct.pack("<Q", len(raw)) + raw


def _pad(output: BinaryIO) -> None:
    output.write(b"\0" * (-output.tell() % _ALIGNMENT))
