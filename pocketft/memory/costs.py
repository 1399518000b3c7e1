"""What a model's blocks and its loss need and cost in every way of running them: measured once (`footprint.py`), then
known, as they depend on shapes alone.

Knows measuring and a cache file; nothing of caps or choices. Of the model, the file keeps a digest.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from itertools import product
from pathlib import Path
from typing import Any

import peft
import torch
import transformers
from peft import LoraConfig
from pydantic import TypeAdapter, ValidationError
from transformers import PretrainedConfig

from pocketft import files
from pocketft.engine.loss import LossTiles
from pocketft.engine.weights import WeightSource
from pocketft.memory.apart import done_apart
from pocketft.memory.footprint import Footprint, loss_cost, measure_footprints
from pocketft.memory.tally import Cost

_FILE = "costs.json"
_REMEMBERED = 32  # the latest; a model with one recipe is one of them
_MEASURED_BY = ("engine", "memory")  # the packages whose code decides what is measured


@dataclass(frozen=True)
class Question:
    """Rows of `length` tokens, so many together as each of `micro_batches` says, attention kept or not."""

    config: PretrainedConfig
    source: WeightSource
    lora: LoraConfig
    length: int
    micro_batches: Sequence[int]
    keeps_attention: Sequence[bool]
    tiles: Sequence[LossTiles]
    dtype: torch.dtype


@dataclass(frozen=True)
class Costs:
    """Footprints by micro-batch and whether attention is kept; what one visit of the loss to a tile costs."""

    footprints: tuple[tuple[int, bool, Footprint], ...]
    loss: tuple[tuple[LossTiles, Cost], ...]


_SAVED = TypeAdapter(dict[str, Costs])


def costs(question: Question, folder: Path | None) -> Costs:
    """From the cache in `folder` where it knows them, else measured and remembered there. An unwritable cache is no
    reason to stop.
    """
    if folder is None:
        return done_apart(lambda: _measure(question))
    key, path = _key(question), folder / _FILE
    known = _read(path)
    if key in known:
        return known[key]
    found = done_apart(lambda: _measure(question))
    latest = dict([*known.items(), (key, found)][-_REMEMBERED:])
    with suppress(OSError, files.StorageError):  # measured again next time
        files.write_json(path, _SAVED.dump_python(latest, mode="json"))
    return found


def _measure(question: Question) -> Costs:
    q = question
    ways = list(product(q.micro_batches, q.keeps_attention))
    footprints = measure_footprints(q.config, q.source, q.lora, q.length, ways, q.dtype)
    return Costs(
        tuple((batch, keep, footprints[batch, keep]) for batch, keep in ways),
        tuple((tiles, loss_cost(q.config.hidden_size, tiles, q.dtype)) for tiles in q.tiles),
    )


def _read(path: Path) -> dict[str, Costs]:
    try:
        return _SAVED.validate_json(path.read_bytes())
    except (OSError, ValidationError):
        return {}


def _key(question: Question) -> str:
    """A digest of all that the answer depends on, the code that measures and the libraries that it runs among it."""
    q = question
    parts = (
        _code(),
        [torch.__version__, transformers.__version__, peft.__version__],
        q.config.to_dict(),
        [(name, [(t.name, t.shape) for t in q.source.block_spec(name).tensors]) for name in q.source.block_names()],
        q.lora.to_dict(),
        (q.length, list(q.micro_batches), list(q.keeps_attention), repr(q.tiles), str(q.dtype)),
    )
    return hashlib.sha256(json.dumps(parts, sort_keys=True, default=_plain).encode()).hexdigest()


def _code() -> str:
    digest = hashlib.sha256()
    for package in _MEASURED_BY:
        for file in sorted((Path(__file__).parents[1] / package).glob("*.py")):
            digest.update(file.read_bytes())
    return digest.hexdigest()


def _plain(value: Any) -> Any:
    """Names of targets are a set, whose order changes from run to run."""
    return sorted(value) if isinstance(value, (set, frozenset)) else repr(value)
