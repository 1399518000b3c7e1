"""The process that turns a source into a block store, apart from the one that trains: its memory is given back.

transformers' GGUF support alone takes several hundred MB for a large vocabulary. `child.py` is its connection to the
one that trains. Run as `python -m pocketft.models.prepare`.
"""

from __future__ import annotations

import hashlib
import re
import shutil
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from pocketft.child import Report, serve
from pocketft.files import sha256_of, storage_errors
from pocketft.libraries import load_libraries
from pocketft.models.location import locked
from pocketft.models.source import SourceBlock, SourceTensor, empty_model, into_blocks


def prepare(job: dict[str, Any], report: Report) -> None:
    """Build one store. The job: name, kind, path, quantization, licence, store; see `base_model.py`."""
    store = Path(job["store"])
    with locked(store):
        for leftover in store.parent.glob(f".{store.name}.*.tmp"):  # of a process that was killed
            shutil.rmtree(leftover, ignore_errors=True)
        with storage_errors(store):
            config_dir = Path(tempfile.mkdtemp(dir=store.parent, prefix=f".{store.name}.", suffix=".tmp"))
        try:
            _build(job, store, config_dir, report)
        finally:
            shutil.rmtree(config_dir, ignore_errors=True)


def _build(job: dict[str, Any], store: Path, config_dir: Path, report: Report) -> None:
    from pocketft.models.block_store import build_store

    path, revision = Path(job["path"]) if job["path"] else None, None
    if job["kind"] == "hub":
        from pocketft.models.hf_source import download, parse_hub_name

        _notice(report, f"using the hub for {job['name']}")
        path, revision = download(parse_hub_name(job["name"]))
    assert path is not None
    is_gguf = path.is_file()
    with storage_errors(config_dir):
        described = _gguf(job, path, config_dir, report) if is_gguf else _folder(job, path, config_dir)
    blocks, config, licence, weights = described
    info = {
        "name": job["name"],
        "kind": job["kind"],
        "artifact_sha256": _artifact_sha256(weights),
        "quantization": job["quantization"],
        "architecture": config.model_type,
        "tokenizer_sha256": sha256_of(config_dir / "tokenizer.json"),
        "licence": job["licence"] or licence,
        "revision": revision,
        "files": fingerprint(path),
    }

    def progress(done: int, total: int) -> None:
        report({"event": "progress", "task": "preparing weights", "done": done, "total": total, "unit": "B"})

    build_store(store, blocks, info, config_dir, progress)


def _gguf(
    job: dict[str, Any], path: Path, config_dir: Path, report: Report
) -> tuple[Sequence[SourceBlock], Any, str, list[Path]]:
    from pocketft.models.gguf_file import read_gguf
    from pocketft.models.gguf_source import gguf_tensors, save_config_and_tokenizer
    from pocketft.models.quantize import quantized

    file = read_gguf(path)
    _notice(report, f"reading configuration and tokenizer of {path.name}")
    config = save_config_and_tokenizer(path, config_dir)
    tensors, layout, notices = gguf_tensors(file, empty_model(config))
    for message in notices:
        _notice(report, message, "warning")
    if job["quantization"] != "gguf":
        _notice(
            report,
            f"{path.name} is quantized already: {job['quantization']} quantizes it a second time, and an adapter "
            "trained so fits the file less well; quantization auto keeps the file's own values",
            "warning",
        )
        tensors = {name: quantized(tensor, layout.roles[name], job["quantization"]) for name, tensor in tensors.items()}
    licence = file.metadata.get("general.license")
    return into_blocks(layout, tensors, str(path)), config, licence if isinstance(licence, str) else "unknown", [path]


def _folder(job: dict[str, Any], path: Path, config_dir: Path) -> tuple[Sequence[SourceBlock], Any, str, list[Path]]:
    from pocketft.models.hf_source import safetensors_tensors, save_config_and_tokenizer, weight_files
    from pocketft.models.quantize import quantized

    weights = weight_files(path)
    config = save_config_and_tokenizer(path, config_dir)
    tensors, layout = safetensors_tensors(path, empty_model(config))
    packed: dict[str, SourceTensor] = {
        name: quantized(tensor, layout.roles[name], job["quantization"]) for name, tensor in tensors.items()
    }
    return into_blocks(layout, packed, str(path)), config, _card_licence(path), weights


def fingerprint(path: Path) -> list[list[Any]]:
    """Name, size and time of change of a source's files: a store is stale when they differ."""
    if path.is_file():
        found = [path]
    else:
        patterns = ("*.safetensors", "*.json", "*.model", "*.jinja")
        found = sorted({file for pattern in patterns for file in path.glob(pattern)})
    return [[file.name, (status := file.stat()).st_size, status.st_mtime_ns] for file in found]


def _artifact_sha256(weights: list[Path]) -> str:
    """Of one file its sha256, as a catalog or a hub page lists it; of several, the sha256 of that list."""
    if len(weights) == 1:
        return sha256_of(weights[0])
    listing = "".join(f"{sha256_of(path)}  {path.name}\n" for path in sorted(weights))
    return hashlib.sha256(listing.encode()).hexdigest()


def _card_licence(folder: Path) -> str:
    """`license:` in the front matter of the model card, where there is one."""
    try:
        text = (folder / "README.md").read_text(encoding="utf-8", errors="replace")[:20_000]
    except OSError:
        return "unknown"
    found = re.search(r"^license(?:_name)?:\s*(\S.*)$", text, re.MULTILINE) if text.startswith("---") else None
    return found[1].strip(" '\"") if found else "unknown"


def _notice(report: Report, message: str, level: str = "info") -> None:
    report({"event": "notice", "level": level, "message": message})


def main() -> None:
    load_libraries()
    serve("preparing the model", prepare)


if __name__ == "__main__":
    main()
