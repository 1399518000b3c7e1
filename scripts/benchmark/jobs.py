"""The processes to measure: pocketft as its users start it, pocketft on a plan of a given kind, and its peers."""

from __future__ import annotations

import json
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from benchmark.peer_weights import peer_weights
from benchmark.places import RUNS, our_python
from benchmark.process import Job
from benchmark.text import Prepared

PEER_KINDS = {
    "trl-qlora": "TRL QLoRA NF4",
    "trl-lora": "TRL LoRA bf16",
    "peft-checkpointing": "PEFT bf16 + checkpointing",
    "peft": "PEFT bf16",
}


def our_job(name: str, prepared: Prepared, memory: str | None = None) -> Job:
    """`pocketft train`, the real command."""
    run = _fresh_run(name)
    return Job(
        name, (our_python(), "-m", "pocketft", "train", *_our_arguments(prepared, run, memory)), run / "log.jsonl"
    )


def planned_job(name: str, prepared: Prepared, memory: str | None, among: Mapping[str, Any]) -> Job:
    """The same, with the planner's candidates narrowed down as `ours.py` describes."""
    run = _fresh_run(name)
    wanted = {
        "text": str(prepared.text),
        "overrides": prepared.overrides,
        "model": prepared.task.model,
        "memory": memory,
        "output": str(run),
        "max_steps": prepared.task.steps,
        "among": dict(among),
    }
    return Job(name, (our_python(), "-m", "benchmark.ours", json.dumps(wanted)), run / "log.jsonl")


def peer_job(kind: str, prepared: Prepared, python: str) -> Job:
    log = _fresh_run(kind).with_suffix(".jsonl")
    wanted = {
        "kind": kind,
        "model": str(peer_weights(prepared.task.model)),
        "rows": str(prepared.rows_file),
        "log": str(log),
        "steps": prepared.task.steps,
        "rows_per_step": prepared.task.rows,
        "learning_rate": 2e-4,
        "r": 8,
        "alpha": 16,
    }
    return Job(kind, (python, "-m", "benchmark.peer", json.dumps(wanted)), log)


def our_arguments(prepared: Prepared, memory: str | None) -> list[str]:
    """Of `pocketft train` and `pocketft plan`, without an output."""
    task = prepared.task
    settings = [word for override in prepared.overrides for word in ("--set", override)]
    cap = [] if memory is None else ["--memory", memory]
    return [str(prepared.text), "--model", task.model, "--device", "cpu", *cap, *settings]


def _our_arguments(prepared: Prepared, run: Path, memory: str | None) -> list[str]:
    steps = ["--max-steps", str(prepared.task.steps)]
    return [*our_arguments(prepared, memory), *steps, "--json", "--output", str(run)]


def _fresh_run(name: str) -> Path:
    run = RUNS / "".join(letter if letter.isalnum() or letter in "-._" else "-" for letter in name)
    shutil.rmtree(run, ignore_errors=True)
    return run
