"""`pocketft doctor`: what this machine is, what would run well on it, and what is missing."""

from __future__ import annotations

import dataclasses
import os
import platform
import shutil
import sys
from pathlib import Path
from typing import Any

from pocketft import __version__
from pocketft.cli import options
from pocketft.cli.choices import cap_bytes
from pocketft.cli.console import facts, notice, print_json
from pocketft.memory.size import format_size

_NEEDED = ("torch", "transformers", "peft", "bitsandbytes", "accelerate", "gguf", "safetensors", "tokenizers")
_LITTLE_DISK_BYTES = 1024**3
_LITTLE_MEMORY_BYTES = 700 * 1024**2  # the default model at its default settings, with a little to spare


def doctor(
    json: options.Json = False,
) -> None:
    """Look at this machine: what it is, what would run, what is missing."""
    notice("looking at this machine; this takes a few seconds")
    found = examine()
    if json:
        print_json(found)
        return
    for heading in ("machine", "speed", "versions", "cache"):
        print(heading)
        facts([(f"  {_name(key)}", _value(key, value)) for key, value in found[heading].items()])
        print()
    for heading in ("advice", "missing"):
        print(heading)
        print("\n".join(f"  {line}" for line in found[heading]) or "  nothing")
        if heading == "advice":
            print()


def examine() -> dict[str, Any]:
    versions = {name: _version(name) for name in _NEEDED}
    machine, cache = _machine(), _cache()
    speed = _speed() if versions["torch"] else {}
    return {
        "machine": machine,
        "speed": speed,
        "versions": {"pocketft": __version__, "python": platform.python_version(), **versions},
        "cache": cache,
        "advice": _advice(machine, versions),
        "missing": _missing(machine, versions, cache),
    }


def _machine() -> dict[str, Any]:
    from pocketft.memory.meter import available_bytes, cgroup_limit_bytes, total_bytes
    from pocketft.memory.processor import processor

    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    return {
        "system": f"{platform.system()} {platform.release()} {platform.machine()}",
        "processor": processor()[0],
        "cores": cores,
        "memory_bytes": total_bytes(),
        "available_bytes": available_bytes(),
        "cgroup_limit_bytes": cgroup_limit_bytes(),
        "default_cap_bytes": cap_bytes(None),
    }


def _speed() -> dict[str, Any]:
    """What training has to do most, measured anew: the figures that plans are made with from now on. Those in the cache
    may be of a moment when the machine was busy.
    """
    from pocketft.memory.profile import machine_profile
    from pocketft.models.location import cache_home

    profile = machine_profile(cache_home(), refresh=True)
    return {**dataclasses.asdict(profile), "compute_dtype": profile.compute_dtype}


def _accelerators() -> list[str]:
    import torch

    found = []
    if torch.cuda.is_available():
        found += [f"cuda: {torch.cuda.get_device_name(index)}" for index in range(torch.cuda.device_count())]
    if torch.backends.mps.is_available():
        found.append("mps: this Mac's GPU")
    return found


def _cache() -> dict[str, Any]:
    from pocketft.models import cache_home

    folder = cache_home()
    size = sum(file.stat().st_size for file in folder.rglob("*") if file.is_file() and not file.is_symlink())
    return {"folder": str(folder), "size_bytes": size, "free_disk_bytes": _free_disk_bytes(folder)}


def _free_disk_bytes(folder: Path) -> int:
    """Of the disk that `folder` would be on; it may not exist yet."""
    while not folder.exists():
        folder = folder.parent
    return shutil.disk_usage(folder).free


def _advice(machine: dict[str, Any], versions: dict[str, str | None]) -> list[str]:
    lines = [
        f"pocketft demo  (with --memory {format_size(min(machine['default_cap_bytes'], 1024**3)).replace(' ', '')})"
    ]
    if versions["torch"]:
        accelerators = _accelerators()
        lines += [f"--device {found.partition(':')[0]} uses {found.partition(': ')[2]}" for found in accelerators]
        if not accelerators:
            lines.append("no GPU that torch can use: the processor does it, which is what pocketft is made for")
    return lines


def _missing(machine: dict[str, Any], versions: dict[str, str | None], cache: dict[str, Any]) -> list[str]:
    lines = [f"{name} is not installed: pip install {name}" for name, found in versions.items() if found is None]
    if machine["available_bytes"] < _LITTLE_MEMORY_BYTES:
        lines.append(
            f"memory: {format_size(machine['available_bytes'])} is free; close programs until "
            f"{format_size(_LITTLE_MEMORY_BYTES)} are, or try --recipe tiny-memory"
        )
    if cache["free_disk_bytes"] < _LITTLE_DISK_BYTES:
        lines.append(
            f"disk: {format_size(cache['free_disk_bytes'])} is free at {cache['folder']}; free 1 GB, or point "
            "POCKETFT_HOME at another disk"
        )
    if sys.maxsize < 2**32:
        lines.append("a 64-bit Python: this one is 32-bit, for which there is no torch")
    return lines


def _version(name: str) -> str | None:
    from importlib.metadata import PackageNotFoundError, version  # a sixth of the time that --help takes

    try:
        return version(name)
    except PackageNotFoundError:
        return None


def _name(key: str) -> str:
    return key.removesuffix("_bytes").replace("_", " ")


def _value(key: str, value: Any) -> Any:
    if value is None:
        return "no" if not key.endswith("_bytes") else "none"
    if key.endswith("_bytes"):
        return format_size(value)
    if isinstance(value, bool):
        return "yes" if value else "no"
    return f"{value:.4g}" if isinstance(value, float) else value
