"""Work that needs much memory once, in a process of its own: the memory is given back when the process ends.

Both ends of it. The parent sends one job as JSON on stdin and gets events as JSON lines on stdout, the last of them
"done" or "failed"; errors arrive as what they were. Whatever ends the parent's wait, Ctrl-C included, ends the process
and with it its temporary files. The process holds itself to the cap that the job names.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pocketft.errors
from pocketft.errors import MemoryCapError, PocketftError
from pocketft.memory.allocator import release_code, release_freed_memory
from pocketft.memory.guard import data_limit, is_out_of_memory, room_to_reserve
from pocketft.memory.meter import peak_rss_bytes, rss_bytes
from pocketft.memory.size import format_size

Report = Callable[[dict[str, Any]], None]

_GRACE_S = 10
_LOOK_EVERY_S = 0.05  # what a process can take meanwhile is less than the share of the cap that is left free
_NEAR, _TOO_NEAR = 0.9, 0.97  # of the cap


@dataclass(frozen=True)
class Task:
    """What the process is for: the module that serves it, words for messages, and what an unexplained end is."""

    module: str
    doing: str
    error: type[PocketftError]
    advice: str
    environment: Mapping[str, str] = field(default_factory=dict)


def run_in_child(task: Task, job: Mapping[str, Any], report: Report) -> None:
    """Have `task.module` do the job, passing notices and progress on. `cap_bytes` in the job, where it is given and not
    None, is the most that its memory may be.
    """
    release_code()  # two processes are in memory now, and this one only waits
    with tempfile.TemporaryFile() as complaints:
        process = subprocess.Popen(
            [sys.executable, "-m", task.module],
            cwd=Path(pocketft.__file__).resolve().parent.parent,  # no json.py among somebody's notes is imported
            env={**os.environ, "PYTHONIOENCODING": "utf-8", **task.environment},
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
            log = complaints.read()[-4000:].decode("utf-8", "replace")
            raise _death(task, process.returncode, log, job.get("cap_bytes"))
    if outcome["event"] == "failed":
        kind = getattr(pocketft.errors, outcome["kind"], task.error)
        raise _error(kind, outcome["message"])


def serve(doing: str, work: Callable[[dict[str, Any], Report], None]) -> None:
    """The other end: do the job that waits on stdin. `doing` says in messages what it is."""
    signal.signal(signal.SIGTERM, _stop)
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the parent decides, and sends SIGTERM
    answers, sys.stdout = sys.stdout, sys.stderr  # what libraries print must not come between the events

    def tell(event: dict[str, Any]) -> None:
        answers.write(json.dumps(event) + "\n")
        answers.flush()

    job = json.loads(sys.stdin.readline())
    release_code()  # what importing has touched
    try:
        with _capped(job.get("cap_bytes"), doing):
            work(job, tell)
    except PocketftError as error:
        tell({"event": "failed", "kind": type(error).__name__, "message": str(error)})
    except BrokenPipeError:  # the parent is gone: nobody wants the result
        raise SystemExit(1) from None
    else:
        tell({"event": "done"})


@contextmanager
def _capped(cap_bytes: int | None, doing: str) -> Iterator[None]:
    """Raises MemoryCapError, between two instructions of Python, when resident memory comes too near to the cap, and in
    the place of an allocation that would leap over it.
    """
    if cap_bytes is None:
        yield
        return
    try:
        # A limit that the parent has set for itself came along; it counts the parent's libraries, which are not here.
        with room_to_reserve(), data_limit(cap_bytes), _watched(cap_bytes, doing):
            yield
    except (MemoryError, RuntimeError, OSError, UserWarning) as error:
        if is_out_of_memory(error):
            raise _too_much(doing, cap_bytes) from error
        raise


@contextmanager
def _watched(cap_bytes: int, doing: str) -> Iterator[None]:
    if not hasattr(signal, "setitimer"):
        yield
        return
    given_back = False

    def look(number: int, frame: object) -> None:
        nonlocal given_back
        if max(rss_bytes(), 0 if given_back else peak_rss_bytes()) <= _NEAR * cap_bytes:
            return
        if not given_back:
            given_back = True
            release_freed_memory()
            release_code()
        if rss_bytes() > _TOO_NEAR * cap_bytes:
            raise _too_much(doing, cap_bytes)

    previous = signal.signal(signal.SIGALRM, look)
    signal.setitimer(signal.ITIMER_REAL, _LOOK_EVERY_S, _LOOK_EVERY_S)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, previous)


def _too_much(doing: str, cap_bytes: int) -> MemoryCapError:
    return MemoryCapError(f"{doing} needs more than the cap of {format_size(cap_bytes)}; give a larger --memory")


def _stop(number: int, frame: object) -> None:
    raise SystemExit(128 + number)  # unwinds, so that temporary files go


def _converse(process: subprocess.Popen[bytes], job: Mapping[str, Any], report: Report) -> dict[str, Any] | None:
    """Pass events on until the process says how it ended; None if it never did."""
    assert process.stdin and process.stdout
    try:
        process.stdin.write(json.dumps(job).encode() + b"\n")
        process.stdin.close()
    except BrokenPipeError:
        return None
    for line in process.stdout:
        event = _event(line)
        if event is None:  # a library that prints
            continue
        if event["event"] in ("done", "failed"):
            return dict(event)
        report(event)
    return None


def _event(line: bytes) -> dict[str, Any] | None:
    try:
        event = json.loads(line)
    except ValueError:
        return None
    return event if isinstance(event, dict) and "event" in event else None


def _end(process: subprocess.Popen[bytes]) -> None:
    if process.stdout:
        process.stdout.close()
    if process.poll() is None:
        process.terminate()
        try:
            process.wait(_GRACE_S)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


def _error(kind: type[PocketftError], message: str) -> PocketftError:
    error = kind.__new__(kind)
    Exception.__init__(error, message)  # some errors are built from more than a message; it is all that travels
    return error


def _death(task: Task, code: int, complaints: str, cap_bytes: int | None) -> PocketftError:
    if code == -signal.SIGABRT and cap_bytes is not None:  # what libraries not written in Python do without memory
        return _too_much(task.doing, cap_bytes)
    if code < 0:
        return task.error(
            f"{task.doing} was stopped from outside (signal {-code}), as happens when memory runs out; close other "
            "programs and try again"
        )
    last = next((line.strip() for line in reversed(complaints.splitlines()) if line.strip()), f"exit code {code}")
    return task.error(f"{task.doing} failed: {last}; {task.advice}")
