"""Where base models come from and where they lie in the cache. Imports nothing heavy.

<cache>/models/<name>/<file>.gguf          fetched catalog models, as others' programs can use them
<cache>/stores/<key>-<quantization>/       block stores: index.json, *.bin, config/ (configuration and tokenizer)
"""

from __future__ import annotations

import difflib
import hashlib
import json
import os
import re
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pocketft import files
from pocketft.errors import ModelError
from pocketft.models.catalog import CatalogEntry, catalog

HUB_PREFIX = "hf:"


@dataclass(frozen=True)
class Location:
    """A base model by where it comes from. `name` finds it again: catalog name, absolute path or hf:owner/name."""

    name: str
    kind: str  # "catalog" | "gguf" | "folder" | "hub"
    path: Path | None = None  # of a gguf file or folder; of a catalog model's file, which may not be there yet
    entry: CatalogEntry | None = None

    @property
    def key(self) -> str:
        """A file name of its own: readable, and different for different places."""
        if self.entry is not None:
            return self.entry.name
        readable = Path(self.name).stem if self.path is not None else self.name.removeprefix(HUB_PREFIX)
        place = hashlib.sha256(self.name.encode()).hexdigest()[:8]
        return f"{re.sub(r'[^A-Za-z0-9._-]+', '-', readable).strip('.-')[:60]}-{place}"

    @property
    def is_gguf(self) -> bool:
        return self.kind in ("catalog", "gguf") or self.name.partition("@")[0].endswith(".gguf")

    def store(self, quantization: str) -> Path:
        return cache_home() / "stores" / f"{self.key}-{quantization}"


def cache_home() -> Path:
    """Absolute: what is prepared there, is prepared by a process that runs in another folder."""
    home = os.environ.get("POCKETFT_HOME")
    return files.expanded(home).absolute() if home else Path.home() / ".cache" / "pocketft"


def locate(name_or_path: str) -> Location:
    """Catalog name, hf:owner/name, path of a .gguf file or of a folder, or the bare name of one prepared before."""
    entry = catalog().get(name_or_path)
    if entry is not None:
        return Location(entry.name, "catalog", cache_home() / "models" / entry.name / entry.file, entry)
    if name_or_path.startswith(HUB_PREFIX):
        return Location(name_or_path, "hub")
    path = files.expanded(name_or_path)
    if os.path.isfile(path):  # unlike Path.is_file it answers for a name that is too long
        return Location(str(path.resolve()), "gguf", path.resolve())
    if os.path.isdir(path):
        return Location(str(path.resolve()), "folder", path.resolve())
    for known in dict.fromkeys(info["name"] for _, info in prepared()):
        short = (Path(known).name, Path(known).stem, known.removeprefix(HUB_PREFIX))
        if known not in catalog() and name_or_path in short:
            return locate_prepared(known)
    raise ModelError(_unknown(name_or_path))


def locate_prepared(name: str) -> Location:
    """The location of a name that a store was prepared for; its source may be gone by now."""
    if name in catalog() or name.startswith(HUB_PREFIX):
        return locate(name)
    path = Path(name)
    return Location(name, "folder" if path.suffix != ".gguf" and not path.is_file() else "gguf", path)


def _unknown(name: str) -> str:
    is_path = name.startswith((".", "~", os.sep)) or name.endswith((".gguf", ".safetensors"))
    if not is_path and name.count("/") == 1:
        return f"no base model at {name}: there is no such folder; for the hub repository of that name write hf:{name}"
    if is_path or os.sep in name:
        return f"no base model at {name}: there is no such file or folder; check the path"
    near = difflib.get_close_matches(name, catalog(), n=1)
    hint = f"did you mean {near[0]}?" if near else f"known names are {', '.join(catalog())}"
    return f"no base model is called {name!r}; {hint}; a .gguf file, a folder or hf:owner/name will do as well"


def prepared() -> Iterator[tuple[Path, dict[str, Any]]]:
    """Every store in the cache with what its index says of itself; unreadable ones are passed over."""
    for index in sorted((cache_home() / "stores").glob("*/index.json")):
        try:
            info = json.loads(index.read_text(encoding="utf-8"))["info"]
            info["name"], info["quantization"]
        except (OSError, ValueError, KeyError, TypeError):
            continue
        yield index.parent, info


@contextmanager
def locked(path: Path) -> Iterator[None]:
    """Hold the lock that goes with `path`, waiting for another process that prepares the same thing."""
    with files.storage_errors(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        lock = path.parent / f".{path.name}.lock"
        file = lock.open("a")
    with file:
        try:
            import fcntl
        except ImportError:  # Windows: two at once do the work twice, and the last rename stands
            pass
        else:
            fcntl.flock(file, fcntl.LOCK_EX)
        yield
