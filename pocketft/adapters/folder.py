"""PEFT adapter folders: read one without believing it, write one whole or not at all.

Reading looks at two JSON files and the header of `adapter_model.safetensors`; numbers are read when they are asked
for. Whatever is unsafe or damaged raises; whatever is merely not a plain LoRA is noted in `AdapterInfo.problems`, so
that it can still be looked at.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from pocketft.adapters.lora_config import LoraSettings, read_settings, variant_problems
from pocketft.adapters.safetensors_file import (
    TensorEntry,
    TensorSpec,
    read_header,
    read_tensor,
    write_tensors,
)
from pocketft.adapters.state import (
    PEFT_PREFIX,
    AdapterInfo,
    AdapterState,
    BaseIdentity,
    Factors,
    ModuleInfo,
    natural_order,
)
from pocketft.adapters.threads import in_threads
from pocketft.errors import AdapterError, UsageError
from pocketft.files import atomic_folder, sha256_of

WEIGHTS_FILE = "adapter_model.safetensors"
CONFIG_FILE = "adapter_config.json"
PROVENANCE_FILE = "pocketft.json"
CARD_FILE = "README.md"
RECIPE_FILE = "recipe.yaml"
OWN_FILES = {WEIGHTS_FILE, CONFIG_FILE, PROVENANCE_FILE, CARD_FILE, RECIPE_FILE}

_PICKLES = (".bin", ".pt", ".pth", ".pkl", ".pickle", ".ckpt")
_MAX_JSON_BYTES = 8 << 20
_MAX_NAME_LENGTH = 256
_MAX_TENSORS = 100_000
_FACTOR = re.compile(r"^(?P<module>.+)\.lora_(?P<embedding>embedding_)?(?P<side>[AB])(?P<weight>\.weight)?$")


@dataclass(frozen=True)
class FolderAdapter:
    """An adapter on disk; see `AdapterState`."""

    info: AdapterInfo
    path: Path
    entries: Mapping[str, TensorEntry]

    def factors(self, module: str) -> Factors:
        described = self.info.modules[module]
        a, b = (self._read(name) for name in described.tensor_names())
        return Factors(a, b, described.scaling)

    def extra(self, name: str) -> Tensor:
        return self._read(name)

    def _read(self, name: str) -> Tensor:
        return read_tensor(self.path / WEIGHTS_FILE, self.entries[name])


def read_adapter(path: Path, label: str | None = None) -> FolderAdapter:
    """Open an adapter folder, or the safetensors file in it. `label` is what messages call it, by default the
    folder's name.

    Raises AdapterError for pickles, damaged or oversized files, and factors that do not fit each other or their
    configuration.
    """
    folder = _find(path)
    config = _read_json(folder / CONFIG_FILE)
    provenance = _read_json(folder / PROVENANCE_FILE) if (folder / PROVENANCE_FILE).is_file() else {}
    if provenance.get("format", 1) != 1:
        raise AdapterError(f"{folder / PROVENANCE_FILE}: written by a newer pocketft; update pocketft to read it")
    entries = {_with_prefix(name): entry for name, entry in read_header(folder / WEIGHTS_FILE).items()}
    problems = variant_problems(config)
    modules: dict[str, ModuleInfo] = {}
    extras: dict[str, tuple[int, ...]] = {}
    _check_names(folder, entries)
    if config.get("peft_type") == "LORA":
        modules = _modules(folder, entries, read_settings(config, str(folder / CONFIG_FILE)))
        own = {name for module in modules.values() for name in module.tensor_names()}
        foreign = sorted(name for name in entries if name not in own and re.search(r"\.lora_[^.]*(\.|$)", name))
        problems += _foreign_problems(foreign, problems)
        extras = {name: entry.shape for name, entry in entries.items() if name not in own and name not in foreign}
        if not modules and not problems:
            problems.append("it holds no LoRA factors")
    info = AdapterInfo(
        label=printable(label or folder.resolve().name),
        kind=str(config.get("peft_type") or "unknown").lower()[:40],
        base=_base_identity(config, provenance),
        modules=modules,
        extras=extras,
        config=config,
        provenance=provenance,
        problems=tuple(problems),
        sha256=sha256_of(folder / WEIGHTS_FILE),
        size_bytes=(folder / WEIGHTS_FILE).stat().st_size,
    )
    return FolderAdapter(info, folder, entries)


def write_adapter(
    path: Path, adapter: AdapterState, extra_files: Mapping[str, str] | None = None, *, force: bool = False
) -> None:
    """Write `adapter` as a PEFT folder; configuration and provenance are those of its info. All or nothing.

    Factors are asked for, and written, one module at a time in float32. `extra_files` maps file names to texts.
    """
    check_output(path, force=force)
    info = adapter.info
    specs: dict[str, TensorSpec] = {}
    for module in info.modules.values():
        a_name, b_name = module.tensor_names()
        specs[a_name] = TensorSpec(torch.float32, (module.rank, module.in_features))
        specs[b_name] = TensorSpec(torch.float32, (module.out_features, module.rank))
    specs.update({name: TensorSpec(torch.float32, shape) for name, shape in info.extras.items()})

    def tensors() -> Iterator[tuple[str, Tensor]]:
        for module, factors in zip(info.modules.values(), in_threads(adapter.factors, info.modules), strict=True):
            yield from zip(module.tensor_names(), (factors.a, factors.b), strict=True)
        for name in info.extras:
            yield name, adapter.extra(name)

    with atomic_folder(path) as folder:
        write_tensors(folder / WEIGHTS_FILE, specs, tensors())
        (folder / CONFIG_FILE).write_text(_json(info.config), encoding="utf-8")
        (folder / PROVENANCE_FILE).write_text(_json(info.provenance), encoding="utf-8")
        for name, text in (extra_files or {}).items():
            (folder / name).write_text(text, encoding="utf-8")


def check_output(path: Path, *, force: bool) -> None:
    """Refuse to write over anything but an empty folder or, with `force`, an adapter folder that holds nothing else."""
    if path.is_file():
        raise UsageError(f"{path} is a file; name a folder to write the adapter to")
    content = {entry.name for entry in path.iterdir()} if path.is_dir() else set()
    if content and not force:
        raise UsageError(f"{path} is not empty; choose another folder, or --force to replace it")
    if content - OWN_FILES:
        raise UsageError(
            f"{path} also holds {printable(min(content - OWN_FILES))}, which replacing it would delete; "
            "choose another folder"
        )


def printable(text: str) -> str:
    """A name fit for a terminal: control characters, which could move the cursor or colour a lie, become '?'."""
    return "".join(character if character.isprintable() else "?" for character in text)[:200]


def _find(path: Path) -> Path:
    if path.suffix.lower() in _PICKLES and path.is_file():
        raise AdapterError(
            f"{path}: a pickle can run code when it is read; save the adapter as safetensors where it was made"
        )
    if path.is_file() and path.name == WEIGHTS_FILE:
        return path.parent
    if not path.exists():
        raise UsageError(f"{path}: no such adapter folder")
    if not path.is_dir():
        raise UsageError(f"{path}: an adapter is a folder with {CONFIG_FILE} and {WEIGHTS_FILE}")
    if not (path / WEIGHTS_FILE).is_file():
        pickles = sorted(entry.name for entry in path.iterdir() if entry.suffix.lower() in _PICKLES)
        if pickles:
            raise AdapterError(
                f"{path}: only {printable(pickles[0])} is there, and a pickle can run code when it is read; "
                "save the adapter as safetensors where it was made"
            )
        raise AdapterError(f"{path}: no {WEIGHTS_FILE} there; give the folder of a finished run or of a PEFT adapter")
    if not (path / CONFIG_FILE).is_file():
        raise AdapterError(f"{path}: no {CONFIG_FILE} there, so its rank and scaling are unknown; copy it along")
    return path


def _read_json(path: Path) -> dict[str, Any]:
    if path.stat().st_size > _MAX_JSON_BYTES:
        raise AdapterError(f"{path}: {path.stat().st_size:,} bytes is too large for what it should hold")
    try:
        value = json.loads(path.read_bytes().decode("utf-8-sig"))
    except (ValueError, RecursionError) as error:
        raise AdapterError(f"{path}: not readable as JSON ({str(error)[:80]}); copy the file again") from None
    if not isinstance(value, dict):
        raise AdapterError(f"{path}: a table was expected there; copy the file again")
    return value


def _with_prefix(name: str) -> str:
    """Some tools leave PEFT's prefix off; inside this program it is always there."""
    return name if name.startswith(PEFT_PREFIX) else PEFT_PREFIX + name


def _check_names(folder: Path, entries: Mapping[str, TensorEntry]) -> None:
    if len(entries) > _MAX_TENSORS:
        raise AdapterError(f"{folder}: {len(entries):,} tensors; no adapter has that many")
    for name in entries:
        if len(name) > _MAX_NAME_LENGTH or not name.isprintable():
            raise AdapterError(
                f"{folder}: a tensor has the impossible name {printable(name)[:60]!r}; copy the file again"
            )


def _modules(folder: Path, entries: Mapping[str, TensorEntry], settings: LoraSettings) -> dict[str, ModuleInfo]:
    sides: dict[tuple[str, bool], dict[str, TensorEntry]] = {}
    for name, entry in entries.items():
        match = _FACTOR.match(name)
        # A linear's factors end in ".weight" and an embedding's do not; the other two combinations are someone
        # else's.
        if match and bool(match["embedding"]) != bool(match["weight"]):
            module = match["module"].removeprefix(PEFT_PREFIX)
            sides.setdefault((module, bool(match["embedding"])), {})[match["side"]] = entry
    modules: dict[str, ModuleInfo] = {}
    for (name, is_embedding), pair in sorted(sides.items(), key=lambda item: natural_order(item[0][0])):
        where = f"{folder}: {name}"
        if set(pair) != {"A", "B"}:
            raise AdapterError(f"{where} has only its factor {min(pair)}; copy the file again")
        a, b = pair["A"].shape, pair["B"].shape
        if len(a) != 2 or len(b) != 2 or a[0] != b[1] or 0 in a or 0 in b:
            raise AdapterError(f"{where}: the shapes A {a} and B {b} do not make a product; copy the file again")
        if a[0] != settings.rank(name):
            raise AdapterError(
                f"{where} has rank {a[0]} where {CONFIG_FILE} says {settings.rank(name)}; "
                "the two files do not belong together"
            )
        modules[name] = ModuleInfo(
            name=name,
            rank=a[0],
            alpha=settings.alpha_of(name),
            scaling=settings.scaling(name),
            in_features=a[1],
            out_features=b[0],
            kind="embedding" if is_embedding else "linear",
        )
    return modules


def _foreign_problems(foreign: list[str], known: list[str]) -> list[str]:
    if not foreign or known:  # a variant that its configuration names need not be named twice
        return []
    if any("lora_magnitude_vector" in name for name in foreign):
        return [
            "it has magnitude vectors: DoRA also rescales the rows of the base weight, which no sum of B·A expresses"
        ]
    return [f"it has tensors of an unknown LoRA variant, for example {foreign[0]}"]


def _base_identity(config: Mapping[str, Any], provenance: Mapping[str, Any]) -> BaseIdentity:
    base = provenance.get("base")
    base = base if isinstance(base, dict) else {}

    def text(*values: Any) -> str | None:
        return next((printable(value) for value in values if isinstance(value, str) and value.strip()), None)

    return BaseIdentity(
        name=text(base.get("name"), config.get("base_model_name_or_path")),
        revision=text(base.get("revision"), config.get("revision")),
        quantization=text(base.get("quantization")),
        artifact_sha256=text(base.get("artifact_sha256")),
        tokenizer_sha256=text(base.get("tokenizer_sha256")),
        architecture=text(base.get("architecture")),
        licence=text(base.get("licence")),
    )


def _json(value: Mapping[str, Any]) -> str:
    return json.dumps(value, indent=2, ensure_ascii=False) + "\n"
