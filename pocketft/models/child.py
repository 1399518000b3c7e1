"""Running `models/prepare.py` in a process of its own, and bringing its events and errors across.

Whatever ends the wait here, Ctrl-C included, ends the process, and with it its temporary files.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pocketft
import pocketft.errors
from pocketft.errors import ModelError, PocketftError

Report = Callable[[dict[str, Any]], None]

_GRACE_S = 10


def run_preparation(job: dict[str, Any], report: Report) -> None:
    """Build the store that `job` describes (name, kind, path, quantization, licence, store), passing events on."""
    environment = {**os.environ, "PYTHONIOENCODING": "utf-8", "HF_HUB_DISABLE_PROGRESS_BARS": "1"}
    environment.setdefault("TRANSFORMERS_VERBOSITY", "error")
    if job["kind"] != "hub":
        environment["HF_HUB_OFFLINE"] = "1"  # transformers asks the hub about some tokenizers unless told not to
    with tempfile.TemporaryFile() as complaints:
        process = subprocess.Popen(
            [sys.executable, "-m", "pocketft.models.prepare"],
            cwd=Path(pocketft.__file__).resolve().parent.parent,
            env=environment,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=complaints,
        )
        try:
            last = _listen(process, job, report)
            process.wait()
        finally:
            _end(process)
        complaints.seek(0)
        log = complaints.read().decode("utf-8", "replace")
    if last.get("event") == "failed":
        kind: type[PocketftError] = getattr(pocketft.errors, last["kind"], ModelError)
        raise kind(last["message"])
    if last.get("event") != "prepared":
        raise _death(job["name"], process.returncode, log)


def _listen(process: subprocess.Popen[bytes], job: dict[str, Any], report: Report) -> dict[str, Any]:
    """Send the job, pass events on, return the last one: "prepared", "failed" or, where it died, something else."""
    assert process.stdin is not None and process.stdout is not None
    event: dict[str, Any] = {}
    try:
        process.stdin.write(json.dumps(job).encode() + b"\n")
        process.stdin.close()
    except BrokenPipeError:
        return event
    for line in process.stdout:
        event = json.loads(line)
        if event["event"] in ("notice", "progress"):
            report(event)
    return event


def _end(process: subprocess.Popen[bytes]) -> None:
    if process.poll() is None:
        process.terminate()
        try:
            process.wait(_GRACE_S)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
    if process.stdout is not None:
        process.stdout.close()


def _death(name: str, code: int, log: str) -> ModelError:
    if code < 0:
        return ModelError(
            f"preparing {name} was stopped from outside (signal {-code}), as happens when memory runs out; close other "
            "programs and try again"
        )
    reason = next((line.strip() for line in reversed(log.splitlines()) if line.strip()), f"exit code {code}")
    return ModelError(f"preparing {name} failed: {reason}; try another file or form of the model")
