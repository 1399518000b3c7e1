"""A process of its own: its events and errors come across, and it keeps to its cap."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

from pocketft.child import Task, run_in_child
from pocketft.errors import MemoryCapError, ModelError, RecipeError

MB = 1 << 20

SERVANT = """
import errno, os, signal, sys, time
from pathlib import Path
from pocketft.child import serve
from pocketft.errors import RecipeError

def work(job, tell):
    print("a library prints")
    tell({"event": "progress", "task": job["do"], "done": 1, "total": 1, "unit": "B"})
    if job["do"] == "refuse":
        raise RecipeError(["one", "two"])
    if job["do"] == "break":
        raise KeyError("no such tensor")
    if job["do"] == "die":
        os.kill(os.getpid(), signal.SIGKILL)
    if job["do"] == "leap":
        bytearray(job["bytes"])
    if job["do"] == "list":  # what listing a folder says without memory
        raise OSError(errno.ENOMEM, "Cannot allocate memory", "folder")
    if job["do"] == "creep":
        Path(job["temporary"]).touch()
        try:
            held = []
            while sum(map(len, held)) < job["bytes"]:
                held.append(b"x" * (1 << 20))
                time.sleep(0.002)
        finally:
            Path(job["temporary"]).unlink()

serve("testing", work)
"""


@pytest.fixture
def task(tmp_path: Path) -> Task:
    (tmp_path / "servant.py").write_text(SERVANT)
    path = os.pathsep.join([str(tmp_path), os.environ.get("PYTHONPATH", "")])
    return Task("servant", "testing", ModelError, "try another", {"PYTHONPATH": path})


def run(task: Task, job: Mapping[str, Any]) -> list[dict[str, Any]]:
    events: list[dict[str, Any]] = []
    run_in_child(task, job, events.append)
    return events


def test_events_come_across_and_what_libraries_print_does_not(task: Task) -> None:
    assert [event["task"] for event in run(task, {"do": "nothing"})] == ["nothing"]


def test_errors_arrive_as_what_they_were(task: Task) -> None:
    with pytest.raises(RecipeError, match="2 problems"):
        run(task, {"do": "refuse"})
    with pytest.raises(ModelError, match="testing failed: KeyError: 'no such tensor'; try another"):
        run(task, {"do": "break"})
    with pytest.raises(ModelError, match=r"signal 9.*memory"):
        run(task, {"do": "die"})


@pytest.mark.skipif(sys.platform != "linux", reason="RLIMIT_DATA counts private memory on Linux only")
def test_one_allocation_beyond_the_cap_is_refused(task: Task) -> None:
    with pytest.raises(MemoryCapError, match="testing needs more than the cap of 200 MB; give a larger --memory"):
        run(task, {"do": "leap", "bytes": 400 * MB, "cap_bytes": 200 * MB})
    run(task, {"do": "leap", "bytes": 400 * MB, "cap_bytes": None})
    with pytest.raises(MemoryCapError, match="testing needs more than the cap"):
        run(task, {"do": "list", "cap_bytes": 200 * MB})


@pytest.mark.skipif(sys.platform != "linux", reason="RLIMIT_DATA counts private memory on Linux only")
def test_the_limit_that_the_parent_has_set_for_itself_is_not_the_child_s(task: Task) -> None:
    import resource

    before = resource.getrlimit(resource.RLIMIT_DATA)
    resource.setrlimit(resource.RLIMIT_DATA, (300 * MB, before[1]))
    try:
        events = run(task, {"do": "leap", "bytes": 400 * MB, "cap_bytes": 600 * MB})
    finally:
        resource.setrlimit(resource.RLIMIT_DATA, before)
    assert [event["task"] for event in events] == ["leap"]


@pytest.mark.skipif(not hasattr(signal, "setitimer"), reason="no timer that interrupts")
def test_memory_that_grows_bit_by_bit_is_stopped_before_the_cap_and_leaves_nothing(task: Task, tmp_path: Path) -> None:
    job = {"do": "creep", "bytes": 400 * MB, "temporary": str(tmp_path / "temporary"), "cap_bytes": 200 * MB}
    with pytest.raises(MemoryCapError, match="more than the cap"):
        run(task, job)
    assert not (tmp_path / "temporary").exists()


def test_the_process_starts_small() -> None:
    """What it serves may be given most of the cap."""
    code = (
        "import sys, pocketft.child; from pocketft.memory.meter import rss_bytes; "
        "print(rss_bytes(), 'numpy' in sys.modules)"
    )
    out = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.split()
    assert int(out[0]) < 40 * MB and out[1] == "False"
