"""The base models on this machine and in the catalog: list, show, fetch, find and remove them.

Pure functions returning data, for `pocketft models` and whoever else asks. Imports nothing heavy until something has to
be prepared.
"""

from __future__ import annotations

import shutil
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pocketft import files
from pocketft.errors import ModelError
from pocketft.models.catalog import CatalogEntry, catalog, default_name
from pocketft.models.location import Location, locate, locate_prepared, prepared

Report = Callable[[dict[str, Any]], None]


@dataclass(frozen=True)
class ModelSummary:
    name: str
    summary: str
    architecture: str
    licence: str
    size_bytes: int  # of the file to fetch, or of what was prepared
    cached: bool  # ready to train on without a network
    default: bool


def list_models() -> list[ModelSummary]:
    """The catalog in its order, then everything else that was prepared here."""
    stores = list(prepared())
    ready = {info["name"] for _, info in stores}
    models = [
        ModelSummary(
            entry.name,
            entry.summary,
            entry.architecture,
            entry.licence,
            entry.size_bytes,
            entry.name in ready or _file(entry).is_file(),
            entry.name == default_name(),
        )
        for entry in catalog().values()
    ]
    for name in dict.fromkeys(info["name"] for _, info in stores if info["name"] not in catalog()):
        own = [(folder, info) for folder, info in stores if info["name"] == name]
        kinds = ", ".join(info["quantization"] for _, info in own)
        models.append(
            ModelSummary(
                name,
                f"prepared here as {kinds}",
                own[0][1]["architecture"],
                own[0][1]["licence"],
                sum(_size(folder) for folder, _ in own),
                True,
                False,
            )
        )
    return models


def pull(
    name: str, quantization: str = "auto", report: Report | None = None, cap_bytes: int | None = None
) -> dict[str, Any]:
    """Fetch and prepare a base model, in a process of no more than `cap_bytes`; returns what `show` says of it then."""
    from pocketft.models.base_model import resolve_base

    return show(resolve_base(name, quantization, report, cap_bytes).name)


def show(name: str) -> dict[str, Any]:
    """What is known of a base model: what it is, its terms, and where it lies. Nothing is fetched."""
    location = locate(name)
    stores = _stores(location)
    described: dict[str, Any] = {"name": location.name}
    entry = location.entry
    if entry is not None:
        described |= {
            "title": entry.title,
            "summary": entry.summary,
            "architecture": entry.architecture,
            "parameters": entry.parameters,
            "file": entry.file,
            "file_quantization": entry.quantization,
            "size_bytes": entry.size_bytes,
            "sha256": entry.sha256,
            "licence": entry.licence,
            "licence_url": entry.licence_url,
            "licence_notice": entry.licence_notice,
            "home": entry.home,
            "packages": ", ".join(wheel.requirement for wheel in entry.wheels),
        }
    elif stores:
        info = stores[0][1]
        described |= {
            "architecture": info["architecture"],
            "sha256": info["artifact_sha256"],
            "licence": info["licence"],
            "revision": info["revision"],
        }
    source = location.path
    described["path"] = str(source) if source is not None and source.exists() else None
    described["prepared_as"] = ", ".join(info["quantization"] for _, info in stores) or None
    described["prepared_bytes"] = sum(_size(folder) for folder, _ in stores)
    return described


def path(name: str) -> Path:
    """The model's own file or folder where it is on this machine, else its prepared store."""
    location = locate(name)
    if location.path is not None and location.path.exists():
        return location.path
    stores = _stores(location)
    if stores:
        return stores[0][0]
    raise ModelError(f"{name} is not on this machine; fetch it with `pocketft models pull {name}`")


def remove(name: str) -> int:
    """Remove what the cache holds of a base model; returns the bytes freed. A person's own files are never touched."""
    location = locate(name)
    doomed = [folder for folder, _ in _stores(location)]
    if location.entry is not None and location.path is not None and location.path.exists():
        doomed.append(location.path.parent)
    if not doomed:
        raise ModelError(f"nothing of {name} is in the cache; `pocketft models` lists what is")
    freed_bytes = sum(_size(folder) for folder in doomed)
    for folder in doomed:
        with files.storage_errors(folder):
            shutil.rmtree(folder)
    return freed_bytes


def _stores(location: Location) -> list[tuple[Path, dict[str, Any]]]:
    return [(folder, info) for folder, info in prepared() if info["name"] == location.name]


def _file(entry: CatalogEntry) -> Path:
    found = locate_prepared(entry.name).path
    assert found is not None
    return found


def _size(folder: Path) -> int:
    return sum(file.stat().st_size for file in folder.rglob("*") if file.is_file())
