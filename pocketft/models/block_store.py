"""The block store: a base model on disk, packed, one file per block, each read with one contiguous read.

    config/               the model's configuration and tokenizer, so that the source is never parsed again
    index.json            format version, fingerprint of the source, and for every block its file's size, sha256 and
                          the place, kind and shape of every part
    embedding.bin  block.0.bin … block.N-1.bin  norm.bin  [head.bin]

Parts lie at multiples of 64 bytes, so a block read into one buffer is used in place through views. The store is written
a few rows at a time into a temporary folder that is renamed when whole. Knows nothing of where tensors come from.
"""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any, BinaryIO

import torch
from torch import Tensor

from pocketft import files
from pocketft.engine.packed import PackedTensor
from pocketft.engine.weights import BlockSpec, PartSpec, TensorSpec
from pocketft.errors import ModelError
from pocketft.models.source import SourceBlock, SourceTensor

FORMAT = 1  # raise whenever the layout of a block changes: older stores are then rebuilt

CONFIG_DIR = "config"

_ALIGNMENT = 64
_INDEX = "index.json"
_ROWS_WEIGHTS = 1 << 20  # weights converted at a time while building

Progress = Callable[[int, int], None]  # bytes done, bytes in all


class BlockStore:
    """An open store: a `WeightSource` over its files. Safe to read from several threads."""

    def __init__(self, folder: Path) -> None:
        """Read the index. Raises ModelError where it is missing or of another format, or a file has the wrong size."""
        self.folder = folder
        index = _read_index(folder)
        self.info: Mapping[str, Any] = index["info"]
        self._specs = {block["name"]: _block_spec(block) for block in index["blocks"]}
        for name, spec in self._specs.items():
            path = self._path(name)
            size = path.stat().st_size if path.is_file() else -1
            if size != spec.nbytes:
                raise ModelError(
                    f"{path} is {'missing' if size < 0 else 'truncated'}; the base model must be prepared again"
                )

    def block_names(self) -> Sequence[str]:
        return list(self._specs)

    def block_spec(self, name: str) -> BlockSpec:
        return self._specs[name]

    @property
    def nbytes(self) -> int:
        return sum(spec.nbytes for spec in self._specs.values())

    def read_block(self, name: str, buffer: Tensor | None = None) -> dict[str, PackedTensor]:
        """Parameter name -> packed tensor, all views of `buffer` (uint8, at least the block's nbytes) or a fresh one.

        The pages are dropped from the page cache behind the read: a streamed model would otherwise push everything else
        out of it, and where memory is capped the cache counts.
        """
        spec = self._specs[name]
        if buffer is None:
            buffer = torch.empty(spec.nbytes, dtype=torch.uint8)
        if buffer.dtype != torch.uint8 or buffer.numel() < spec.nbytes or not buffer.is_contiguous():
            raise ValueError(f"read_block: {name} needs a contiguous uint8 buffer of {spec.nbytes} bytes")
        path = self._path(name)
        with path.open("rb", buffering=0) as file:
            _read_into(file, _bytes_of(buffer)[: spec.nbytes], path)
            if hasattr(os, "posix_fadvise"):
                os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)
        return {tensor.name: _view_tensor(tensor, buffer) for tensor in spec.tensors}

    def read_tensors(self, name: str, tensor_names: Sequence[str]) -> dict[str, PackedTensor]:
        """Only these tensors of block `name`, in memory of their own: norms and biases, without the matrices."""
        wanted = [tensor for tensor in self._specs[name].tensors if tensor.name in tensor_names]
        path = self._path(name)
        found = {}
        with path.open("rb", buffering=0) as file:
            for tensor in wanted:
                start = tensor.parts[0].offset
                stop = tensor.parts[-1].offset + tensor.parts[-1].nbytes
                buffer = torch.empty(stop - start, dtype=torch.uint8)
                file.seek(start)
                _read_into(file, _bytes_of(buffer), path)
                found[tensor.name] = _view_tensor(tensor, buffer, start)
        return found

    def read_rows(self, name: str, tensor_name: str, ranges: Sequence[tuple[int, int]]) -> PackedTensor:
        """The rows start:stop of each of `ranges`, one after another, in memory of their own."""
        spec = next(tensor for tensor in self._specs[name].tensors if tensor.name == tensor_name)
        path, parts = self._path(name), {}
        count = sum(stop - start for start, stop in ranges)
        with path.open("rb", buffering=0) as file:
            for part in spec.parts:
                row_bytes = part.nbytes // spec.shape[0]
                buffer = torch.empty(count * row_bytes, dtype=torch.uint8)
                target, at = _bytes_of(buffer), 0
                for start, stop in ranges:
                    file.seek(part.offset + start * row_bytes)
                    _read_into(file, target[at : (at := at + (stop - start) * row_bytes)], path)
                parts[part.name] = buffer.view(getattr(torch, part.dtype)).view(count, *part.shape[1:])
        return PackedTensor(spec.kind, (count, *spec.shape[1:]), parts, spec.group_size, spec.zero_point)

    def _path(self, name: str) -> Path:
        return self.folder / f"{name}.bin"


def build_store(
    folder: Path,
    blocks: Sequence[SourceBlock],
    info: Mapping[str, Any],
    config_dir: Path | None = None,
    progress: Progress | None = None,
) -> BlockStore:
    """Write a store at `folder`, replacing an older one when it is whole. Holds a few MB of a tensor at a time.

    `info` is kept in the index; the files of `config_dir` go along as `config/`.
    """
    specs = [_plan_block(block) for block in blocks]
    total = sum(spec.nbytes for spec in specs)
    files.require_space(folder, total, "set POCKETFT_HOME to another disk")
    done = 0
    with files.atomic_folder(folder) as temporary:
        if config_dir is not None:
            shutil.copytree(config_dir, temporary / CONFIG_DIR)
        index = []
        for block, spec in zip(blocks, specs, strict=True):
            path = temporary / f"{spec.name}.bin"
            with path.open("wb", buffering=0) as file:
                file.truncate(spec.nbytes)
                for tensor, tensor_spec in zip(block.tensors, spec.tensors, strict=True):
                    _write_tensor(file, tensor, tensor_spec)
                    done += tensor_spec.nbytes
                    if progress is not None:
                        progress(done, total)
            index.append({**asdict(spec), "sha256": files.sha256_of(path)})
        value = {"format": FORMAT, "info": dict(info), "blocks": index}
        (temporary / _INDEX).write_text(json.dumps(value), encoding="utf-8")
    return BlockStore(folder)


def _plan_block(block: SourceBlock) -> BlockSpec:
    offset = 0
    tensors = []
    for tensor in block.tensors:
        parts = []
        for name, (dtype, shape) in tensor.layout.parts(tensor.shape).items():
            nbytes = torch.Size(shape).numel() * dtype.itemsize
            parts.append(PartSpec(name, str(dtype).removeprefix("torch."), tuple(shape), offset, nbytes))
            offset += -(-nbytes // _ALIGNMENT) * _ALIGNMENT
        layout = tensor.layout
        tensors.append(
            TensorSpec(tensor.name, layout.kind, tensor.shape, tuple(parts), layout.group_size, layout.zero_point)
        )
    return BlockSpec(block.name, offset, tuple(tensors))


def _write_tensor(file: BinaryIO, tensor: SourceTensor, spec: TensorSpec) -> None:
    n_rows = tensor.shape[0]
    step = max(1, _ROWS_WEIGHTS // max(1, spec.numel // n_rows))
    for start in range(0, n_rows, step):
        stop = min(start + step, n_rows)
        parts = tensor.read_rows(start, stop)
        for part in spec.parts:
            data = parts[part.name].contiguous()
            expected = (stop - start, *part.shape[1:])
            if tuple(data.shape) != expected or str(data.dtype) != f"torch.{part.dtype}":
                raise AssertionError(f"{tensor.name}.{part.name}: {data.dtype} {tuple(data.shape)}, planned {part}")
            file.seek(part.offset + start * (part.nbytes // n_rows))
            _write_all(file, _bytes_of(data.view(-1).view(torch.uint8)))


def _bytes_of(tensor: Tensor) -> memoryview:
    array: Any = tensor.numpy()
    return memoryview(array)


def _write_all(file: BinaryIO, data: memoryview) -> None:
    while len(data):
        data = data[file.write(data) :]


def _read_into(file: BinaryIO, target: memoryview, path: Path) -> None:
    while len(target):
        count = file.readinto(target)  # type: ignore[attr-defined]  # an unbuffered file is a RawIOBase
        if not count:
            raise ModelError(f"{path} is truncated; the base model must be prepared again")
        target = target[count:]


def _view_tensor(spec: TensorSpec, buffer: Tensor, start: int = 0) -> PackedTensor:
    """The parts of a tensor in `buffer`, which holds the block's bytes from `start` on."""
    parts = {}
    for part in spec.parts:
        data = buffer[part.offset - start : part.offset - start + part.nbytes]
        parts[part.name] = data.view(getattr(torch, part.dtype)).view(part.shape)
    return PackedTensor(spec.kind, spec.shape, parts, spec.group_size, spec.zero_point)


def _read_index(folder: Path) -> dict[str, Any]:
    try:
        index: dict[str, Any] = json.loads((folder / _INDEX).read_text(encoding="utf-8"))
        version = index["format"]
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise ModelError(f"{folder} is not a whole block store; the base model must be prepared again") from error
    if version != FORMAT:
        raise ModelError(f"{folder} has store format {version}, not {FORMAT}; the base model must be prepared again")
    return index


def _block_spec(block: Mapping[str, Any]) -> BlockSpec:
    tensors = tuple(
        TensorSpec(
            tensor["name"],
            tensor["kind"],
            tuple(tensor["shape"]),
            tuple(PartSpec(**{**part, "shape": tuple(part["shape"])}) for part in tensor["parts"]),
            tensor["group_size"],
            tensor["zero_point"],
        )
        for tensor in block["tensors"]
    )
    return BlockSpec(block["name"], block["nbytes"], tensors)
