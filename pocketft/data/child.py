"""Running the preparation in a process of its own, and bringing its events and errors across.

Leaves nothing behind: whatever ends the wait here, Ctrl-C included, ends the process and its temporary files.
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

import pocketft.errors
from pocketft.errors import DataError, PocketftError

Report = Callable[[dict[str, Any]], None]

GRACE_S = 10


def run_preparation(job: dict[str, Any], report: Report) -> None:
    """`job`: paths, tokenizer_dir, cache_dir (absolute), settings, tokens_key, rows_key, total_bytes."""
    package_root = Path(pocketft.__file__).resolve().parent.parent
    with tempfile.TemporaryFile() as complaints:
        process = subprocess.Popen(
            [sys.executable, "-m", "pocketft.data.prepare"],
            cwd=package_root,  # -m looks here first: a json.py among somebody's notes must not be imported
            env={**os.environ, "PYTHONIOENCODING": "utf-8"},
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=complaints,
        )
        try:
            outcome = _converse(process, job, report)
            process.wait()
        finally:
            _end(process)
        if outcome is None:
            complaints.seek(0)
            raise _death(process.returncode, complaints.read()[-4000:].decode("utf-8", "replace"))
    if outcome["event"] == "failed":
        kind = getattr(pocketft.errors, outcome["kind"], DataError)
        raise _error(kind, outcome["message"])


def _converse(process: subprocess.Popen[bytes], job: dict[str, Any], report: Report) -> dict[str, Any] | None:
    """Pass events on until the process says how it ended; None if it never did."""
    assert process.stdin and process.stdout
    try:
        process.stdin.write(json.dumps(job).encode() + b"\n")
        process.stdin.close()
    except BrokenPipeError:
        return None
    for line in process.stdout:
        try:
            event = json.loads(line)
        except ValueError:  # a library that prints
            continue
        if event["event"] in ("prepared", "failed"):
            return dict(event)
        report(event)
    return None


def _end(process: subprocess.Popen[bytes]) -> None:
    if process.stdout:
        process.stdout.close()
    if process.poll() is None:
        process.terminate()
        try:
            process.wait(GRACE_S)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


def _error(kind: type[PocketftError], message: str) -> PocketftError:
    error = kind.__new__(kind)
    Exception.__init__(error, message)  # some errors are built from more than a message; it is all that travels
    return error


def _death(code: int, complaints: str) -> DataError:
    if code < 0:
        return DataError(
            f"the process that reads the text was killed (signal {-code}); close other programs if memory ran out, "
            "and try again"
        )
    last = next((line for line in reversed(complaints.splitlines()) if line.strip()), "no message")
    return DataError(f"reading the text failed: {last.strip()}; please report this with the kind of file it was")
