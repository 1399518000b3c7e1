"""The files of a tokenizer: what they say, and a hash of them all. Imports no tokenizer."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any

from pocketft.errors import ModelError
from pocketft.files import sha256_of

TOKENIZER_FILES = (
    "tokenizer.json",
    "tokenizer_config.json",
    "special_tokens_map.json",
    "chat_template.jinja",
    "chat_template.json",
    "generation_config.json",
    "config.json",
)


def tokenizer_fingerprint(folder: Path) -> str:
    digest = hashlib.blake2b(digest_size=20)
    for name in TOKENIZER_FILES:
        path = folder / name
        if path.is_file():
            digest.update(f"{name} {sha256_of(path)} ".encode())
    return digest.hexdigest()


def read_config(folder: Path, name: str = "tokenizer_config.json") -> dict[str, Any]:
    path = folder / name
    if not path.is_file():
        return {}
    try:
        config = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise ModelError(f"cannot read {path}: {error}; fetch the base model again") from error
    return config if isinstance(config, dict) else {}


def token_text(value: Any) -> str:
    """A token as configurations write it: a string, or an object with "content"."""
    if isinstance(value, dict):
        value = value.get("content")
    return value if isinstance(value, str) else ""


def chat_template_source(folder: Path) -> str | None:
    """The template among a tokenizer's files; None for a base model without one."""
    jinja = folder / "chat_template.jinja"
    if jinja.is_file():
        return jinja.read_text(encoding="utf-8")
    for name in ("chat_template.json", "tokenizer_config.json"):
        source = read_config(folder, name).get("chat_template")
        if isinstance(source, list):  # several named ones
            named = {entry.get("name"): entry.get("template") for entry in source if isinstance(entry, dict)}
            source = named.get("default")
        if isinstance(source, str):
            return source
    return None
