"""A common start: the initialisation that `pocketft init-group` dealt out, held against what this run is told.

Adapters that begin with the same A lose less when they are averaged; one that began elsewhere, or whose rank or base
is another, would only look like one of the group. So a difference is an error, and named.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from peft import LoraConfig
from torch import Tensor

from pocketft.errors import UsageError
from pocketft.training.evaluate import read_adapter
from pocketft.training.run_folder import read_info

_SAME_BASE = ("artifact_sha256", "quantization", "tokenizer_sha256")
_SAME_LORA = ("r", "lora_alpha", "use_rslora")


@dataclass(frozen=True)
class Start:
    """`group` names the initialisation: adapters that grew from it carry it in their pocketft.json."""

    group: str
    state: dict[str, Tensor]


def read_start(folder: Path, lora: LoraConfig, base: Mapping[str, Any]) -> Start:
    """Raises UsageError where the folder is no start, or one of another base or adapter shape."""
    if not folder.is_dir():
        raise UsageError(f"lora.init: {folder} is no folder; give one that `pocketft init-group` wrote")
    info = read_info(folder)
    group = info.get("group")
    if not isinstance(group, str):
        raise UsageError(f"lora.init: {folder} is no common start; give a folder that `pocketft init-group` wrote")
    config, state = read_adapter(folder)
    theirs = info.get("base") or {}
    differences = [
        f"{key} is {_shown(theirs.get(key))} there and {_shown(base.get(key))} here"
        for key in _SAME_BASE
        if theirs.get(key) is not None and theirs.get(key) != base.get(key)
    ]
    differences += [
        f"{key} is {getattr(config, key, None)} there and {getattr(lora, key)} here"
        for key in _SAME_LORA
        if getattr(config, key, None) != getattr(lora, key)
    ]
    if differences:
        raise UsageError(
            f"lora.init: {folder} is the start of another kind of run: {'; '.join(differences)}; "
            f"train by its own recipe, --recipe {folder / 'recipe.yaml'}"
        )
    return Start(group, state)


def _shown(value: Any) -> str:
    text = str(value)
    return f"{text[:12]}…" if len(text) == 64 else text[:80]
