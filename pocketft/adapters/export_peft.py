"""An adapter folder to give away: what PEFT needs and where it comes from, and nothing of the machine or the person.

Only fields that are known to be harmless are kept, so that whatever another tool wrote beside them stays behind.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from pocketft.adapters.card import model_card, public_base_name
from pocketft.adapters.folder import CARD_FILE, FolderAdapter, write_adapter
from pocketft.adapters.state import AdapterInfo
from pocketft.models.catalog import catalog

_CONFIG = (
    "peft_type", "task_type", "revision", "r", "lora_alpha", "lora_dropout", "use_rslora", "bias", "target_modules",
    "exclude_modules", "modules_to_save", "layers_to_transform", "layers_pattern", "rank_pattern", "alpha_pattern",
    "fan_in_fan_out", "init_lora_weights",
)  # fmt: skip
_PROVENANCE = ("format", "kind", "tokens", "examples", "steps", "seed", "group", "versions")
_BASE = ("artifact_sha256", "revision", "quantization", "architecture", "tokenizer_sha256", "licence")
_PARENT = ("sha256", "weight", "tokens")


def write_peft_folder(folder: Path, adapter: FolderAdapter, *, force: bool) -> None:
    """Write the clean copy whole or not at all."""
    info = shareable(adapter.info)
    write_adapter(folder, replace(adapter, info=info), {CARD_FILE: model_card(info)}, force=force)


def shareable(info: AdapterInfo) -> AdapterInfo:
    """The same adapter with only what may be seen by everyone."""
    name = hub_name(info) or public_base_name(info)
    config = {key: info.config[key] for key in _CONFIG if key in info.config}
    config.update(base_model_name_or_path=name, inference_mode=True)
    known = info.provenance
    provenance: dict[str, Any] = {key: known[key] for key in _PROVENANCE if key in known}
    if known:
        base = known.get("base")
        base = base if isinstance(base, Mapping) else {}
        provenance["base"] = {"name": public_base_name(info), **{key: base.get(key) for key in _BASE}}
        provenance["metrics"] = _numbers(known.get("metrics"))
        provenance["parents"] = [
            {key: parent[key] for key in _PARENT if key in parent}
            for parent in known.get("parents") or ()
            if isinstance(parent, Mapping)
        ]
        if isinstance(known.get("merge"), Mapping):
            provenance["merge"] = dict(known["merge"])
    return replace(
        info, config=config, provenance=provenance or {"format": 1, "kind": "lora"}, base=replace(info.base, name=name)
    )


def hub_name(info: AdapterInfo) -> str | None:
    """The repository in which others find the base of a catalog model."""
    for entry in catalog().values():
        if info.base.artifact_sha256 == entry.sha256 or info.base.name == entry.name:
            return entry.home.removeprefix("https://huggingface.co/")
    return None


def _numbers(values: Any) -> dict[str, float | None]:
    if not isinstance(values, Mapping):
        return {}
    return {key: value for key, value in values.items() if value is None or isinstance(value, (int, float))}
