"""What the figures were measured on: the machine, and the versions of what ran."""

from __future__ import annotations

import datetime
import json
import os
import platform
import subprocess
from typing import Any

from benchmark.places import CHECKOUT, our_python, threads
from pocketft.memory.processor import processor

_PACKAGES = ("torch", "transformers", "peft", "trl", "bitsandbytes", "accelerate")
_FLAGS = ("avx2", "avx512f", "avx512_bf16", "amx_bf16", "asimd", "bf16", "i8mm")  # that decide which products are fast
_ASK = """
import json, platform, sys
from importlib.metadata import PackageNotFoundError, version
found = {"python": platform.python_version()}
for name in json.loads(sys.argv[1]):
    try:
        found[name] = version(name)
    except PackageNotFoundError:
        pass
print(json.dumps(found))
"""


def machine() -> dict[str, Any]:
    import psutil

    cpu, flags = processor()
    return {
        "cpu": cpu,
        "cores": os.cpu_count(),
        "threads": threads(),
        "memory_bytes": psutil.virtual_memory().total,
        "swap_bytes": psutil.swap_memory().total,
        "flags": [flag for flag in _FLAGS if flag in flags],
        "system": f"{platform.system()} {platform.release()}",
    }


def versions(peers: str | None = None) -> dict[str, Any]:
    """Of our environment and, where they take part, of the peers'."""
    import pocketft

    ours = {"pocketft": pocketft.__version__, "commit": _commit(), **_installed(our_python())}
    return {"pocketft": ours, **({"peers": _installed(peers)} if peers else {})}


def today() -> str:
    return datetime.date.today().isoformat()


def _installed(python: str) -> dict[str, str]:
    asked = subprocess.run([python, "-c", _ASK, json.dumps(_PACKAGES)], check=True, capture_output=True, text=True)
    found: dict[str, str] = json.loads(asked.stdout)
    return found


def _commit() -> str:
    """The last that changed what is measured; results that were added to docs/ since are no change of it."""
    commit = _git("log", "-1", "--format=%h", "--", "pocketft")
    changed = _git("status", "--porcelain", "--untracked-files=no", "--", "pocketft")
    return f"{commit}-dirty" if commit and changed else commit or "unknown"


def _git(*arguments: str) -> str:
    return subprocess.run(["git", *arguments], cwd=CHECKOUT, capture_output=True, text=True).stdout.strip()
