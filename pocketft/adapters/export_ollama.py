"""What Ollama takes: which versions, of which families, and where to read the version that is installed.

Whether Ollama takes an adapter depends on its version and on the model's family, and what it does not take it finds out
only when it runs. So that is settled here, before anything is written: an adapter beside its base where the Ollama in
question takes that, else both folded into one file, which every Ollama takes.
"""

from __future__ import annotations

import re
import shutil
import subprocess
from dataclasses import dataclass

from pocketft.errors import UsageError

# Ollama's own engine ends with "loras are not yet implemented"; these families of ours run in it (fs/ggml/ggml.go,
# OllamaEngineRequired). The others run in llama.cpp, which takes adapters.
_OWN_ENGINE = ("gemma3", "qwen3")
# ADAPTER in a Modelfile is refused from here on (ollama pull request 14969).
_LAST_WITH_ADAPTERS = (0, 34, 0)


@dataclass(frozen=True)
class OllamaChoice:
    """What to write, and why. `reason` is empty where adapters are taken."""

    takes_adapter: bool
    reason: str


def choose(architecture: str, version: tuple[int, ...] | None) -> OllamaChoice:
    """Whether Ollama `version` (None: the newest) takes an adapter for this family."""
    if architecture in _OWN_ENGINE:
        return OllamaChoice(False, f"Ollama runs {architecture} models in its own engine, which takes no adapters")
    last = ".".join(map(str, _LAST_WITH_ADAPTERS))
    if version is None:
        return OllamaChoice(False, f"Ollama after {last} takes no adapters (--ollama-version, where it is older)")
    if version > _LAST_WITH_ADAPTERS:
        return OllamaChoice(False, f"Ollama {'.'.join(map(str, version))} takes no adapters, only up to {last}")
    return OllamaChoice(True, "")


def installed_version() -> tuple[int, ...] | None:
    """The version of the Ollama on this machine, if there is one. Asks the program, not a server."""
    program = shutil.which("ollama")
    if program is None:
        return None
    try:
        said = subprocess.run([program, "--version"], capture_output=True, text=True, timeout=10, check=False)
    except (OSError, subprocess.TimeoutExpired):
        return None
    found = re.findall(r"(\d+)\.(\d+)\.(\d+)", said.stdout + said.stderr)
    return tuple(map(int, found[-1])) if found else None


def parse_version(text: str) -> tuple[int, ...]:
    match = re.fullmatch(r"v?(\d+)\.(\d+)(?:\.(\d+))?(?:-\w+)?", text.strip())
    if match is None:
        raise UsageError(f"--ollama-version {text!r:.40} is not a version; write for example 0.34.0")
    return tuple(int(part or 0) for part in match.groups())
