"""The smallest memory limit by the kernel that a training run survives, found by halving."""

from __future__ import annotations

import sys
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial

from benchmark import cells
from benchmark.goals import goals
from benchmark.jobs import our_job, peer_job
from benchmark.kernel_limit import Group, NoLimit, own_group
from benchmark.options import Options
from benchmark.page_cache import files_of_a_run, forget
from benchmark.places import our_python
from benchmark.process import Job, Measured, measure
from benchmark.random_model import ensure_model
from benchmark.report import Section, Table
from benchmark.search import smallest_passing
from benchmark.smallest import NoPlan, smallest_memory
from benchmark.text import Prepared, Task, prepare
from benchmark.turns import tell_run

_MB = 1 << 20
_COLUMNS = ("run", "must", "aim", "smallest limit", "--memory", "peak without limit", "anonymous", "seconds", "trials")
_PATIENCE = 3  # times as long as without a limit: a run that only reads its libraries again and again is none
_ABOUT = """The smallest limit of a control group (swap off) in which a run of a few steps ends well, to {within} MB or
a twenty-fifth of its peak; all its memory counts, pages of files too, which the kernel takes back first. Base and text
are prepared beforehand, outside the limit. pocketft plans for the smallest `--memory` at which it finds a plan, which
may be above the limit: pages of libraries count in the one and can be taken back in the other. Libraries and weights
are dropped from the page cache before every trial. A trial that takes more than {patience} times as long as without a
limit does not count as survived."""


@dataclass(frozen=True)
class Case:
    """One run to be squeezed: pocketft's, or that of a peer."""

    label: str
    task: Task
    peer: str | None = None


CASES = (
    Case("SmolLM2-135M, S = 512", Task("smollm2-135m", 512, 4, 2)),
    Case("Gemma-3-270M, S = 512", Task("gemma-3-270m", 512, 4, 2)),
    Case("Qwen2.5-0.5B shape, S = 256", Task("qwen2.5-0.5b-shape", 256, 1, 2)),
    Case("Qwen2.5-3B shape, S = 1024", Task("qwen2.5-3b-shape", 1024, 1, 2)),
    Case("Llama-3.1-8B shape, S = 512", Task("llama-3.1-8b-shape", 512, 1, 2)),
    Case("TRL QLoRA: SmolLM2-135M, rows of 512", Task("smollm2-135m", 512, 4, 2), "trl-qlora"),
)


def cap(options: Options) -> Section | None:
    cases = [case for case in (CASES[:1] if options.quick else CASES) if options.wants(case.label)]
    within = 64 if options.quick else 12
    try:
        with own_group() as group:
            print(f"control groups, version {group.version}", file=sys.stderr)
            peers_python = options.peers_python() if any(case.peer for case in cases) else None
            found = [_squeeze(case, group, within * _MB, peers_python) for case in cases]
    except NoLimit as why:
        print(f"cap is left out: {why}", file=sys.stderr)
        return None
    about = _ABOUT.format(within=within, patience=_PATIENCE).replace("\n", " ")
    table = Table(
        f"Smallest limit survived (control groups, version {group.version})", _COLUMNS, [row for row, _ in found]
    )
    records = [record for _, record in found]
    return Section("cap", "Under a hard limit", about, (table,), records, peers_python=peers_python)


def _squeeze(
    case: Case, group: Group, within: int, peers_python: str | None
) -> tuple[tuple[str, ...], dict[str, object]]:
    """The row of one case, and the record of its trials."""
    ensure_model(case.task.model)
    prepared = prepare(case.task)
    try:
        make, python, memory = _runner(case, prepared, peers_python)
    except NoPlan as why:
        return (case.label, *goals(case.label), str(why), *[""] * 5), {"name": case.label, "error": str(why)}
    free = measure(make())
    tell_run(f"{case.label}, no limit", free)
    trials = _Trials(case, make, python, group, timeout_s=_PATIENCE * free.wall_s)
    smallest = None
    if free.ok:
        too_low = free.anonymous_bytes or free.peak_bytes // 2  # anonymous memory cannot be taken back
        fine = max(within, free.peak_bytes // 25)
        smallest = smallest_passing(trials.passes, too_low, int(1.1 * free.peak_bytes), fine)
    row = (
        case.label,
        *goals(case.label),
        cells.size(smallest) or free.error or "none up to its own peak",
        memory or "",
        cells.size(free.peak_bytes),
        cells.size(free.anonymous_bytes),
        cells.seconds(trials.last_survivor_s),
        str(len(trials.results)),
    )
    return row, {"name": case.label, "smallest_limit_bytes": smallest, "free": free.to_json(), "trials": trials.results}


def _runner(case: Case, prepared: Prepared, peers_python: str | None) -> tuple[Callable[[], Job], str, str | None]:
    """What makes a run, the interpreter that runs it, and its `--memory`."""
    if case.peer is not None:
        assert peers_python is not None
        return partial(peer_job, case.peer, prepared, peers_python), peers_python, None
    memory = smallest_memory(prepared)
    return partial(our_job, f"cap {case.label}", prepared, memory), our_python(), memory


@dataclass
class _Trials:
    """Runs of one case under one limit after another."""

    case: Case
    make: Callable[[], Job]
    python: str
    group: Group
    timeout_s: float
    results: list[dict[str, object]] = field(default_factory=list)
    last_survivor_s: float | None = None

    def passes(self, limit_bytes: int) -> bool:
        job = self.make()
        forget(files_of_a_run(self.python))
        self.group.limit(limit_bytes)
        run: Measured = measure(job, limits=(self.group.procs,), timeout_s=self.timeout_s)
        survived = run.ok and run.steps == self.case.task.steps
        tell_run(f"{self.case.label}, limit {limit_bytes / _MB:.0f} MB, {'survived' if survived else 'did not'}", run)
        self.results.append({"limit_bytes": limit_bytes, "survived": survived, "wall_s": run.wall_s, "why": run.error})
        if survived:
            self.last_survivor_s = run.wall_s
        return survived
