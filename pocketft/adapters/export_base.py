"""The base that an export needs: found, and held against what the adapter says of its own.

Knows records and models; nothing of what is written.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pocketft.adapters.folder import RECIPE_FILE, FolderAdapter
from pocketft.adapters.state import AdapterInfo, BaseIdentity
from pocketft.errors import AdapterError, ModelError, UsageError
from pocketft.models.base_model import BaseModel, load_config, resolve_base
from pocketft.models.location import locate_prepared
from pocketft.models.recorded import find_recorded
from pocketft.recipe import load_recipe

if TYPE_CHECKING:
    from transformers import PretrainedConfig

Report = Callable[[dict[str, Any]], None]


@dataclass(frozen=True)
class ExportBase:
    """An open base. `gguf` is its own file where it is a GGUF that is still there."""

    model: BaseModel
    config: PretrainedConfig
    gguf: Path | None

    def require_gguf(self, why: str) -> Path:
        if self.gguf is None:
            raise UsageError(
                f"{why} needs the base as a GGUF file, and {self.model.name} is none; export with --to merged and "
                "convert that with llama.cpp's convert_hf_to_gguf.py, or train on the model's GGUF"
            )
        return self.gguf


def recorded_base(adapter: FolderAdapter, model: str | None = None) -> tuple[str | None, str]:
    """Name and quantization of the adapter's base: `model` where it is given, else as its run was told, else as it
    says itself. A name of None is unknown.
    """
    info = adapter.info
    quantization = info.base.quantization or "auto"
    if model is not None:
        return model, quantization
    if (adapter.path / RECIPE_FILE).is_file():
        section = load_recipe(adapter.path / RECIPE_FILE).model
        if not Path(section.name).is_absolute() or Path(section.name).exists():
            return section.name, section.quantization
    if info.base.name is None:
        return None, quantization
    return find_recorded(info.base.name, info.base.artifact_sha256, info.base.revision), quantization


def open_export_base(
    info: AdapterInfo, name: str | None, quantization: str, report: Report, cap_bytes: int
) -> ExportBase:
    """Prepared first where that is needed, inside `cap_bytes`. Raises AdapterError where it is another base than the
    adapter's, UsageError where nothing names one.
    """
    recorded = info.base
    if name is None:
        raise UsageError(f"{info.label} does not say which base model it belongs to; give it with --model")
    base = resolve_base(name, quantization, report, cap_bytes)
    _check_same(info.label, recorded, base)
    config = load_config(base)
    _check_fits(info, base, config)
    return ExportBase(base, config, _gguf_file(base))


def _check_same(label: str, recorded: BaseIdentity, base: BaseModel) -> None:
    if recorded.artifact_sha256 and recorded.artifact_sha256 != base.artifact_sha256:
        raise AdapterError(
            f"{label} was trained on a base file with SHA-256 {recorded.artifact_sha256[:12]}…, and {base.name} has "
            f"{base.artifact_sha256[:12]}…; give the right one with --model"
        )
    if recorded.architecture and recorded.architecture != base.architecture:
        raise AdapterError(
            f"{label} belongs to a {recorded.architecture} model, and {base.name} is a {base.architecture} model; "
            "give the right one with --model"
        )


def _check_fits(info: AdapterInfo, base: BaseModel, config: PretrainedConfig) -> None:
    """Every adapted layer is a linear layer of the base with the adapter's shape."""
    shapes = {
        tensor.name.removesuffix(".weight"): tensor.shape
        for block in base.store.block_names()
        for tensor in base.store.block_spec(block).tensors
        if tensor.name.endswith(".weight") and len(tensor.shape) == 2
    }
    for name, module in info.modules.items():
        if module.kind == "embedding" or name == "model.embed_tokens":
            raise AdapterError(f"{info.label} adapts the embedding, which no export carries; train without it")
        if name not in shapes and name == "lm_head":
            raise AdapterError(
                f"{info.label} adapts the head, which {base.name} shares with its embedding; no export can carry that"
            )
        if name not in shapes:
            raise AdapterError(f"{base.name} has no layer {name:.100}; is {info.label} another base's adapter?")
        if shapes[name] != (module.out_features, module.in_features):
            raise AdapterError(
                f"{info.label}: {name:.100} is {module.out_features} x {module.in_features}, and in {base.name} "
                f"{' x '.join(map(str, shapes[name]))}; is it another base's adapter?"
            )


def _gguf_file(base: BaseModel) -> Path | None:
    location = locate_prepared(base.name)
    if not location.is_gguf:
        return None
    if location.kind == "hub":
        from pocketft.models.hf_source import download, parse_hub_name

        return download(parse_hub_name(base.name))[0]
    if location.path is None or not location.path.is_file():
        raise ModelError(f"{location.path} is gone; put it back to export from it")
    return location.path
