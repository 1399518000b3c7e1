"""An adapter folded into its base, as a model folder that transformers and everything built on it load.

The base is read, changed, rounded and written a few rows at a time: a full model never exists in memory, however large
it is. Weights are those that the adapter was trained on, whatever their quantization; what rounding the sum to 16 bits
costs is measured and told, against the size of the update itself.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from pocketft.adapters.export_base import ExportBase
from pocketft.adapters.safetensors_file import TensorSpec, write_pieces
from pocketft.adapters.state import AdapterState, Factors
from pocketft.engine.packed import dequantize
from pocketft.errors import AdapterError
from pocketft.files import atomic_folder, require_space

SHARD_BYTES = 4 << 30
ROWS_WEIGHTS = 1 << 20  # weights in memory at a time: 4 MB in float32, as in `engine.packed`
_DTYPES = {"f16": torch.float16, "bf16": torch.bfloat16}
_LARGEST_F16 = 65504.0

Progress = Callable[[int, int], None]  # bytes done, bytes in all


@dataclass
class Rounding:
    """What rounding W + update to the file's numbers did to the adapted layers, in sums of squares."""

    update: float = 0.0
    error: float = 0.0

    def add(self, exact: Tensor, stored: Tensor, update: Tensor) -> None:
        self.update += float(update.double().square().sum())
        self.error += float((stored.double() - exact.double()).square().sum())

    @property
    def ratio(self) -> float:
        """Size of the rounding noise over the size of the update."""
        return (self.error / self.update) ** 0.5 if self.update else 0.0


@dataclass(frozen=True)
class _Stored:
    """One tensor of the base: where its rows are read."""

    block: str
    name: str
    shape: tuple[int, ...]


def write_merged_folder(
    folder: Path,
    adapter: AdapterState,
    base: ExportBase,
    dtype: str,
    *,
    extra_files: Mapping[str, str] | None = None,
    shard_bytes: int = SHARD_BYTES,
    progress: Progress = lambda done, total: None,
) -> Rounding:
    """Write the folder whole or not at all. `dtype`: "f16" or "bf16"."""
    kind = _DTYPES[dtype]
    tensors = _tensors(base)
    shards = _shards(tensors, kind, shard_bytes)
    total = sum(_spec(one, kind).nbytes for one in tensors)
    require_space(folder, total)
    rounding, done = Rounding(), 0

    def pieces(shard: list[_Stored]) -> Iterator[tuple[str, Tensor]]:
        nonlocal done
        for stored in shard:
            for piece in _merged_rows(stored, adapter, base, kind, rounding):
                done += piece.nbytes
                yield stored.name, piece
            progress(done, total)

    with atomic_folder(folder) as temporary:
        names = _shard_names(len(shards))
        for name, shard in zip(names, shards, strict=True):
            write_pieces(temporary / name, {one.name: _spec(one, kind) for one in shard}, pieces(shard))
        if len(shards) > 1:
            where = {one.name: name for name, shard in zip(names, shards, strict=True) for one in shard}
            index = {"metadata": {"total_size": total}, "weight_map": where}
            (temporary / "model.safetensors.index.json").write_text(json.dumps(index, indent=2) + "\n")
        _write_config(temporary, base, kind)
        for name, text in (extra_files or {}).items():
            (temporary / name).write_text(text, encoding="utf-8")
    return rounding


def update_rows(factors: Factors, start: int, stop: int) -> Tensor:
    """Rows start:stop of scaling · B A, float32."""
    return (factors.b[start:stop] @ factors.a).mul_(factors.scaling)


def _merged_rows(
    stored: _Stored, adapter: AdapterState, base: ExportBase, kind: torch.dtype, rounding: Rounding
) -> Iterator[Tensor]:
    module = stored.name.removesuffix(".weight")
    factors = adapter.factors(module) if module in adapter.info.modules else None
    step = max(1, ROWS_WEIGHTS // max(1, stored.shape[1] if len(stored.shape) > 1 else 1))
    for start in range(0, stored.shape[0], step):
        stop = min(start + step, stored.shape[0])
        packed = base.model.store.read_rows(stored.block, stored.name, [(start, stop)])
        exact = torch.empty(packed.shape)
        dequantize(packed, exact)
        if factors is not None:
            update = update_rows(factors, start, stop)
            exact += update
        rows = exact.to(kind)
        if kind == torch.float16 and not bool(torch.isfinite(rows).all()):
            raise AdapterError(
                f"{stored.name:.100} has values beyond float16 ({_LARGEST_F16:.0f}); export with --dtype bf16"
            )
        if factors is not None:
            rounding.add(exact, rows, update)
        yield rows


def _tensors(base: ExportBase) -> list[_Stored]:
    store = base.model.store
    return [
        _Stored(block, tensor.name, tensor.shape)
        for block in store.block_names()
        for tensor in store.block_spec(block).tensors
    ]


def _spec(stored: _Stored, kind: torch.dtype) -> TensorSpec:
    return TensorSpec(kind, stored.shape)


def _shards(tensors: list[_Stored], kind: torch.dtype, limit_bytes: int) -> list[list[_Stored]]:
    shards: list[list[_Stored]] = [[]]
    size = 0
    for stored in tensors:
        nbytes = _spec(stored, kind).nbytes
        if shards[-1] and size + nbytes > limit_bytes:
            shards.append([])
            size = 0
        shards[-1].append(stored)
        size += nbytes
    return shards


def _shard_names(count: int) -> list[str]:
    if count == 1:
        return ["model.safetensors"]
    return [f"model-{number:05d}-of-{count:05d}.safetensors" for number in range(1, count + 1)]


def _write_config(folder: Path, base: ExportBase, kind: torch.dtype) -> None:
    """The base's configuration and tokenizer, with the dtype and the class that the files now belong to."""
    from transformers.models.auto.modeling_auto import MODEL_FOR_CAUSAL_LM_MAPPING_NAMES

    for file in sorted(base.model.config_dir.iterdir()):
        if file.is_file():
            shutil.copyfile(file, folder / file.name)
    path = folder / "config.json"
    config: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    for key in ("_name_or_path", "_model_name_or_path", "torch_dtype", "quantization_config"):
        config.pop(key, None)
    config["dtype"] = str(kind).removeprefix("torch.")
    name = MODEL_FOR_CAUSAL_LM_MAPPING_NAMES.get(config.get("model_type", ""))
    if name is not None:
        config["architectures"] = [name if isinstance(name, str) else name[0]]
    path.write_text(json.dumps(config, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")
