"""pocketft alone on random weights in the shapes of larger models: how fast, and in how much memory."""

from __future__ import annotations

from dataclasses import dataclass

from benchmark import cells
from benchmark.goals import goals
from benchmark.jobs import our_job
from benchmark.medians import median, spread
from benchmark.options import Options
from benchmark.process import Measured, failed, measure
from benchmark.random_model import ensure_model
from benchmark.report import Section, Table
from benchmark.smallest import NoPlan, smallest_memory
from benchmark.text import Task, prepare
from benchmark.turns import tell_run

_COLUMNS = (
    "shape",
    "must",
    "aim",
    "tokens/s",
    "range",
    "peak",
    "anonymous",
    "predicted",
    "cap",
    "ready s",
    "what was run",
)


@dataclass(frozen=True)
class Case:
    """`memory` None: what pocketft takes by itself. "smallest": the smallest at which there is a plan."""

    task: Task
    memory: str | None

    @property
    def name(self) -> str:
        task, cap = self.task, self.memory or "default cap"
        return f"{task.model}, {task.rows} x {task.seq_length}, {cap if cap != 'smallest' else 'smallest cap'}"


CASES = (
    Case(Task("qwen2.5-0.5b-shape", 256, 1, 4), "smallest"),
    Case(Task("qwen2.5-0.5b-shape", 512, 4, 3), None),
    Case(Task("llama-3.2-1b-shape", 512, 1, 3), "smallest"),
    Case(Task("llama-3.2-1b-shape", 512, 4, 3), None),
    Case(Task("qwen2.5-3b-shape", 1024, 1, 3), "smallest"),
    Case(Task("qwen2.5-3b-shape", 1024, 2, 2), None),
    Case(Task("llama-3.1-8b-shape", 512, 1, 2), "smallest"),
    Case(Task("llama-3.1-8b-shape", 512, 4, 2), None),
)


def shapes(options: Options) -> Section:
    cases = [case for case in (CASES[:1] if options.quick else CASES) if options.wants(case.name)]
    found = {case: _measured(case, options) for case in cases}
    return Section(
        "shapes",
        "Larger shapes",
        "Random weights packed like a Q4_1 file (embedding or head in 8 bits), LoRA r = 8 on all linear layers, exact "
        "loss over the whole vocabulary. The cap is pocketft's `--memory`.",
        (Table("Shapes", _COLUMNS, [_row(case, runs) for case, runs in found.items()]),),
        [run.to_json() for runs in found.values() for run in runs],
    )


def _measured(case: Case, options: Options) -> list[Measured]:
    ensure_model(case.task.model)
    task = (
        case.task
        if options.steps is None
        else Task(case.task.model, case.task.seq_length, case.task.rows, options.steps)
    )
    prepared = prepare(task)
    try:
        memory = smallest_memory(prepared) if case.memory == "smallest" else case.memory
    except NoPlan as why:
        return [failed(case.name, str(why))]
    runs = []
    for _ in range(options.repeats or 1):
        runs.append(measure(our_job(case.name, prepared, memory)))
        tell_run(case.name, runs[-1])
    return runs


def _row(case: Case, runs: list[Measured]) -> tuple[str, ...]:
    good = [run for run in runs if run.ok]
    if not good:
        return (case.name, *goals(case.name), *[""] * 7, runs[-1].error)
    rates, plan = [run.tokens_per_s for run in good], good[-1].event("plan")
    return (
        case.name,
        *goals(case.name),
        cells.rate(median(rates)),
        spread(rates),
        cells.size(median([run.peak_bytes for run in good])),
        cells.size(median([run.anonymous_bytes for run in good])),
        cells.size(plan["predicted_peak_bytes"]),
        cells.size(plan["cap_bytes"]),
        cells.seconds(median([run.ready_s for run in good])),
        plan["choice"],
    )
