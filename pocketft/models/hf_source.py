"""A safetensors folder as a source, and a hub repository as such a folder.

Reads safetensors only: pickle files can run code and are refused. The hub is contacted only for a name the person gave
(`hf:owner/name`), through huggingface_hub, which honours HF_TOKEN, HF_HUB_OFFLINE and HF_HOME.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from pocketft.errors import ModelError
from pocketft.models.layout import Layout
from pocketft.models.source import ModelLayout, SourceTensor, into_blocks, model_layout

_LAYOUTS = {"F32": Layout("f32"), "F16": Layout("f16"), "BF16": Layout("bf16")}
_HUB_PATTERNS = ["*.safetensors", "*.json", "*.jinja", "tokenizer*", "*.model", "merges.txt", "vocab.txt", "README.md"]


def weight_files(folder: Path) -> list[Path]:
    """The safetensors files of a model folder. Raises ModelError, saying what is wrong with the folder."""
    if (folder / "adapter_config.json").is_file() and not (folder / "config.json").is_file():
        raise ModelError(f"{folder} is an adapter, not a base model; give the base it was trained on as the model")
    if not (folder / "config.json").is_file():
        raise ModelError(f"{folder} has no config.json; give a model folder as transformers saves it, or a .gguf file")
    index = folder / "model.safetensors.index.json"
    if index.is_file():
        try:
            names = sorted(set(json.loads(index.read_text(encoding="utf-8"))["weight_map"].values()))
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            raise ModelError(f"{index} is damaged; fetch it again") from error
        for name in names:
            if Path(name).name != name or not (folder / name).is_file():
                raise ModelError(f"{folder} lacks {name}, one of its {len(names)} weight files; fetch it again")
        return [folder / name for name in names]
    single = folder / "model.safetensors"
    found = [single] if single.is_file() else sorted(folder.glob("*.safetensors"))
    if not found:
        pickles = sorted(path.name for pattern in ("*.bin", "*.pt", "*.pth") for path in folder.glob(pattern))
        if pickles:
            raise ModelError(
                f"{folder} has only pickle weights ({pickles[0]}), which can run code and are never loaded; convert "
                "them where you trust them: AutoModelForCausalLM.from_pretrained(...).save_pretrained(folder)"
            )
        raise ModelError(f"{folder} has no .safetensors weights; fetch the model again")
    return found


def save_config_and_tokenizer(folder: Path, target: Path) -> Any:
    """Write config.json, generation_config.json and the tokenizer's files to `target`; returns the configuration."""
    from transformers import AutoConfig, AutoTokenizer, GenerationConfig

    try:
        config = AutoConfig.from_pretrained(folder, local_files_only=True).get_text_config()
        tokenizer = AutoTokenizer.from_pretrained(folder, local_files_only=True)
    except (ValueError, KeyError, TypeError, OSError, ImportError) as error:
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise ModelError(
            f"{folder}: transformers cannot read its configuration or tokenizer ({reason}); fetch the model again or "
            "choose one that transformers knows without remote code"
        ) from error
    if getattr(config, "quantization_config", None) is not None:
        raise ModelError(f"{folder} is quantized for another engine; choose the original weights or a GGUF file")
    if not tokenizer.is_fast:
        raise ModelError(f"{folder} has no fast tokenizer (tokenizer.json); choose a model that has one")
    config.save_pretrained(target)
    tokenizer.save_pretrained(target)
    if (folder / "generation_config.json").is_file():
        generation = GenerationConfig.from_pretrained(folder, local_files_only=True)
    else:
        generation = GenerationConfig.from_model_config(config)
    generation.save_pretrained(target)
    return config


def safetensors_tensors(folder: Path, model: torch.nn.Module) -> tuple[dict[str, SourceTensor], ModelLayout]:
    """Every parameter of `model` as rows of the folder's files, in the files' own 16 or 32 bits."""
    stored: dict[str, SourceTensor] = {}
    for path in weight_files(folder):
        stored.update(_open(path))
    layout = model_layout(model)
    prefix = _prefix(layout.block_of, stored)
    tensors = {name: replace(stored[prefix + name], name=name) for name in layout.block_of if prefix + name in stored}
    into_blocks(layout, tensors, str(folder))
    return tensors, layout


def _open(path: Path) -> dict[str, SourceTensor]:
    from safetensors import SafetensorError, safe_open

    try:
        file = safe_open(path, framework="pt")
        slices = {name: file.get_slice(name) for name in file.keys()}  # noqa: SIM118  not a mapping
    except (SafetensorError, OSError, ValueError) as error:
        raise ModelError(f"{path} is truncated or damaged ({error}); fetch it again") from error
    tensors = {}
    for name, rows in slices.items():
        layout = _LAYOUTS.get(rows.get_dtype())
        if layout is not None:
            tensors[name] = SourceTensor(name, tuple(rows.get_shape()), layout, _reader(rows))
    return tensors


def _reader(rows: Any) -> Any:
    def read_rows(start: int, stop: int) -> Mapping[str, Tensor]:
        return {"data": rows[start:stop]}

    return read_rows


def _prefix(wanted: Mapping[str, str], stored: Mapping[str, SourceTensor]) -> str:
    """What the files put before every name: "language_model." where the text model is part of a larger one."""
    first = next(iter(wanted))
    for name in stored:
        if name.endswith(first) and all(name.removesuffix(first) + other in stored for other in wanted):
            return name.removesuffix(first)
    return ""


@dataclass(frozen=True)
class HubName:
    """`hf:owner/name`, `hf:owner/name@revision`, or `hf:owner/name/file.gguf`."""

    repository: str
    file: str | None
    revision: str | None


def parse_hub_name(text: str) -> HubName:
    path, _, revision = text.removeprefix("hf:").partition("@")
    pieces = path.split("/")
    if len(pieces) < 2 or not all(pieces) or (len(pieces) > 2 and not path.endswith(".gguf")):
        raise ModelError(f"{text!r} is not a hub name; write hf:owner/name, or hf:owner/name/file.gguf")
    return HubName("/".join(pieces[:2]), "/".join(pieces[2:]) or None, revision or None)


def download(name: HubName) -> tuple[Path, str | None]:
    """The local folder (or .gguf file) of a hub repository, downloaded where needed, and its revision."""
    from huggingface_hub import hf_hub_download, snapshot_download
    from huggingface_hub.errors import (
        GatedRepoError,
        HfHubHTTPError,
        LocalEntryNotFoundError,
        OfflineModeIsEnabled,
        RepositoryNotFoundError,
    )

    what = name.file or "its configuration, tokenizer and .safetensors files"
    by_hand = f"run `hf download {name.repository}` where there is a network and the same HF_HOME"
    try:
        if name.file:
            path = Path(hf_hub_download(name.repository, name.file, revision=name.revision))
            return path, _snapshot_revision(path)
        path = Path(snapshot_download(name.repository, revision=name.revision, allow_patterns=_HUB_PATTERNS))
        return path, _snapshot_revision(path)
    except GatedRepoError as error:
        raise ModelError(
            f"hf:{name.repository} is gated: accept its terms on its page, then set HF_TOKEN to a token of yours"
        ) from error
    except RepositoryNotFoundError as error:
        raise ModelError(
            f"hf:{name.repository} does not exist or is private; check the name, or set HF_TOKEN to a token of yours"
        ) from error
    except (LocalEntryNotFoundError, OfflineModeIsEnabled) as error:
        raise ModelError(
            f"hf:{name.repository}: {what} not on this machine, and the hub is off (HF_HUB_OFFLINE) or cannot be "
            f"reached; {by_hand}"
        ) from error
    except (HfHubHTTPError, OSError) as error:
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise ModelError(f"hf:{name.repository}: {what} could not be downloaded ({reason}); {by_hand}") from error


def _snapshot_revision(path: Path) -> str | None:
    """The commit, from where huggingface_hub keeps snapshots: …/snapshots/<commit>/…"""
    parts = path.parts
    return parts[parts.index("snapshots") + 1] if "snapshots" in parts[:-1] else None
