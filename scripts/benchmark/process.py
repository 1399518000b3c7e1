"""Run one training process and watch it from outside: time, memory, and the steps that it logs.

The same watch for every contender. A process tells of itself in a log of JSON lines: a first line when the model is
ready and the first optimizer step is about to begin, then one with "event": "step" after each optimizer step, with
`step`, `tokens` and `elapsed` (both since the beginning of training) and `loss`.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from benchmark.places import CHECKOUT, environment
from benchmark.stolen import Stolen

_POLL_S = 0.02
_LINUX = sys.platform.startswith("linux")


@dataclass(frozen=True)
class Job:
    """A process to measure: `command`, and the log that it will write."""

    name: str
    command: tuple[str, ...]
    log: Path


@dataclass(frozen=True)
class Measured:
    """Sizes in bytes, times in seconds from the start of the process; None where there is nothing to tell.

    `ready_s`: the first optimizer step begins. `first_step_s`: it is done. `tokens_per_s`: optimizer steps, the first
    left out. `peak_bytes` is VmHWM, `anonymous_bytes` the largest RssAnon seen. `stolen_share`: of all processors'
    time meanwhile, what the host of a virtual machine gave to others.
    """

    name: str
    ok: bool
    wall_s: float
    peak_bytes: int
    anonymous_bytes: int | None
    ready_s: float | None = None
    first_step_s: float | None = None
    tokens_per_s: float | None = None
    steps: int = 0
    loss: float | None = None
    losses: tuple[float, ...] = ()
    stolen_share: float = 0.0
    error: str = ""
    events: tuple[dict[str, Any], ...] = field(default=(), repr=False)

    def event(self, kind: str) -> dict[str, Any]:
        """The last event of a kind; {} where there is none."""
        return next((event for event in reversed(self.events) if event.get("event") == kind), {})

    def to_json(self) -> dict[str, Any]:
        return {name: value for name, value in vars(self).items() if name != "events"}


def failed(name: str, why: str) -> Measured:
    """Of a run that could not even begin."""
    return Measured(name, ok=False, wall_s=0.0, peak_bytes=0, anonymous_bytes=None, error=why)


def measure(job: Job, limits: Sequence[Path] = (), timeout_s: float = 3600.0) -> Measured:
    """Run the job to its end. `limits`: files of control groups (`cgroup.procs`) that it enters before it starts."""
    job.log.unlink(missing_ok=True)
    enter = "".join(f'echo $$ > "{path}" && ' for path in limits)
    command = ["/bin/sh", "-c", f'{enter}exec "$@"', "sh", *job.command] if limits else list(job.command)
    with tempfile.TemporaryFile() as output:
        stolen, started = Stolen(), time.perf_counter()
        process = subprocess.Popen(
            command, stdout=output, stderr=subprocess.STDOUT, env=environment(), cwd=CHECKOUT, start_new_session=True
        )
        watch = _Watch(process.pid, job.log, started)
        try:
            while process.poll() is None and time.perf_counter() - started <= timeout_s:
                watch.look()
                time.sleep(_POLL_S)
        finally:
            late = process.poll() is None
            process.kill()
            process.wait()
        wall_s, stolen_share = time.perf_counter() - started, round(stolen.share(), 3)
        output.seek(0)
        said = output.read().decode(errors="replace")
    measured = replace(_measured(job, process.returncode, wall_s, watch, said), stolen_share=stolen_share)
    return replace(measured, error=f"not done after {timeout_s:.0f} s") if late else measured


@dataclass
class _Watch:
    """What is seen of a process while it runs."""

    pid: int
    log: Path
    started: float
    peak_bytes: int = 0
    anonymous_bytes: int | None = None
    ready_s: float | None = None
    first_step_s: float | None = None

    def look(self) -> None:
        self._look_at_memory()
        if self.first_step_s is None:
            self._look_at_log()

    def _look_at_memory(self) -> None:
        if not _LINUX:
            import psutil

            with suppress(psutil.Error):
                self.peak_bytes = max(self.peak_bytes, psutil.Process(self.pid).memory_info().rss)
            return
        with suppress(OSError):
            status = Path(f"/proc/{self.pid}/status").read_text()
            self.peak_bytes = max(self.peak_bytes, _status_bytes(status, "VmHWM") or 0)
            anonymous = _status_bytes(status, "RssAnon")
            if anonymous is not None:
                self.anonymous_bytes = max(self.anonymous_bytes or 0, anonymous)

    def _look_at_log(self) -> None:
        try:
            text = self.log.read_text(encoding="utf-8")
        except OSError:
            return
        now = time.perf_counter() - self.started
        if "\n" in text and self.ready_s is None:
            self.ready_s = now
        if '"event": "step"' in text:
            self.first_step_s = now


def _status_bytes(status: str, name: str) -> int | None:
    for line in status.splitlines():
        if line.startswith(name + ":"):
            return int(line.split()[1]) * 1024
    return None


def _measured(job: Job, code: int, wall_s: float, watch: _Watch, said: str) -> Measured:
    events = read_events(job.log)
    steps = [event for event in events if event.get("event") == "step"]
    done: dict[str, Any] = next((event for event in reversed(events) if event.get("event") == "done"), {})
    return Measured(
        name=job.name,
        ok=code == 0 and bool(steps),
        wall_s=round(wall_s, 2),
        peak_bytes=max(watch.peak_bytes, int(done.get("peak_bytes") or 0)),
        anonymous_bytes=watch.anonymous_bytes,
        ready_s=_rounded(watch.ready_s),
        first_step_s=_rounded(watch.first_step_s),
        tokens_per_s=_rounded(rate_after_first(steps)),
        steps=len(steps),
        loss=steps[-1]["loss"] if steps else None,
        losses=tuple(event["loss"] for event in steps),
        error="" if code == 0 else _last_words(code, said),
        events=tuple(events),
    )


def read_events(log: Path) -> list[dict[str, Any]]:
    """The whole lines of a log; [] where there is none."""
    try:
        lines = log.read_text(encoding="utf-8").splitlines()
    except OSError:
        return []
    events = []
    for line in lines:
        with suppress(ValueError):  # a line that was cut off
            events.append(json.loads(line))
    return events


def rate_after_first(steps: Sequence[dict[str, Any]]) -> float | None:
    """Tokens per second from the end of the first step to the end of the last; None with fewer than two."""
    if len(steps) < 2:
        return None
    first, last = steps[0], steps[-1]
    return float((last["tokens"] - first["tokens"]) / (last["elapsed"] - first["elapsed"]))


def _last_words(code: int, said: str) -> str:
    lines = [line.strip() for line in said.strip().splitlines() if line.strip()]
    told = [line for line in lines if line.startswith("error:")] or lines[-1:]
    if code < 0:
        return f"killed by signal {-code}"
    how = f"exit {code}"
    return " ".join([how, *told[-1:]])[:400].replace(str(CHECKOUT), "").replace(os.path.expanduser("~"), "~")


def _rounded(value: float | None) -> float | None:
    return None if value is None else round(value, 3)
