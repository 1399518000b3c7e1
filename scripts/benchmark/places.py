"""Where the suite keeps its things, and what every measured process finds in its environment.

.bench/home/      pocketft's cache: block stores, tokenized text; `models` is shared with the person's own cache
.bench/weights/   the same bases as bf16 safetensors folders, for the peers
.bench/rows/      the text, and its rows of tokens for the peers
.bench/peers/     the virtual environment of the peers
.bench/runs/      what the measured processes write
"""

from __future__ import annotations

import os
import sys
from pathlib import Path

CHECKOUT = Path(__file__).resolve().parents[2]
BENCH = Path(os.environ.get("POCKETFT_BENCH") or CHECKOUT / ".bench")
HOME = BENCH / "home"
WEIGHTS = BENCH / "weights"
ROWS = BENCH / "rows"
PEERS = BENCH / "peers"
RUNS = BENCH / "runs"
DOCS = CHECKOUT / "docs"


def make_places() -> None:
    """All folders, and pocketft in this process pointed at the suite's own cache."""
    usual = Path(os.environ.get("POCKETFT_HOME") or Path.home() / ".cache" / "pocketft").expanduser()
    for folder in (HOME, WEIGHTS, ROWS, RUNS, usual / "models"):
        folder.mkdir(parents=True, exist_ok=True)
    shared = HOME / "models"
    if not shared.exists() and usual.resolve() != HOME.resolve():
        shared.symlink_to(usual.resolve() / "models")
    os.environ["POCKETFT_HOME"] = str(HOME)


def threads() -> int:
    """The same for every contender: OMP_NUM_THREADS where it is set, else the cores that this process may use."""
    said = os.environ.get("OMP_NUM_THREADS", "")
    if said.isdigit():
        return int(said)
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def environment() -> dict[str, str]:
    """Of every measured process: the same threads, no GPU, no network."""
    return {
        **os.environ,
        "OMP_NUM_THREADS": str(threads()),
        "MKL_NUM_THREADS": str(threads()),
        "CUDA_VISIBLE_DEVICES": "",
        "HF_HUB_OFFLINE": "1",
        "HF_DATASETS_OFFLINE": "1",
        "TOKENIZERS_PARALLELISM": "false",
        "POCKETFT_HOME": str(HOME),
        "PYTHONPATH": os.pathsep.join((str(CHECKOUT), str(CHECKOUT / "scripts"))),
        "PYTHONUNBUFFERED": "1",
    }


def our_python() -> str:
    return sys.executable
