"""Predicted against measured peak, over models, row lengths, caps and places of the weights; and is the cap kept?"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from benchmark import cells
from benchmark.goals import goals
from benchmark.jobs import planned_job
from benchmark.medians import spread
from benchmark.options import Options
from benchmark.process import Measured, failed, measure
from benchmark.random_model import ensure_model
from benchmark.report import Section, Table
from benchmark.smallest import NoPlan, smallest_memory
from benchmark.text import Prepared, Task, prepare
from benchmark.turns import tell_run

_COLUMNS = ("cell", "predicted", "peak", "predicted / peak", "cap", "cap kept", "what was run")


@dataclass(frozen=True)
class Cell:
    """`memory` None: the smallest at which there is a plan. `residence` None: what the planner likes."""

    model: str
    seq_length: int
    rows: int
    memory: str | None
    residence: str | None = None

    @property
    def name(self) -> str:
        where = "" if self.residence is None else f", {self.residence}"
        return f"{self.model}, {self.rows} x {self.seq_length}, {self.memory or 'smallest cap'}{where}"


CELLS = (
    Cell("smollm2-135m", 512, 4, None),
    Cell("smollm2-135m", 512, 4, "512MB"),
    Cell("smollm2-135m", 512, 4, "800MB"),
    Cell("smollm2-135m", 512, 4, "900MB"),
    Cell("smollm2-135m", 512, 4, "1GB"),
    Cell("smollm2-135m", 512, 8, "1GB"),
    Cell("smollm2-135m", 256, 16, "1GB"),
    Cell("smollm2-135m", 512, 4, "1500MB", "packed"),
    Cell("smollm2-135m", 512, 4, "2GB", "streamed"),
    Cell("smollm2-135m", 512, 4, "4GB", "dense"),
    Cell("smollm2-135m", 128, 16, "1GB"),
    Cell("smollm2-135m", 256, 8, None),
    Cell("smollm2-135m", 1024, 2, None),
    Cell("smollm2-135m", 1024, 2, "1500MB"),
    Cell("smollm2-135m", 2048, 1, "1GB", "streamed"),
    Cell("gemma-3-270m", 512, 4, None),
    Cell("gemma-3-270m", 512, 4, "1500MB", "packed"),
    Cell("gemma-3-270m", 512, 4, "4GB"),
    Cell("gemma-3-270m", 1024, 2, "4GB"),
    Cell("qwen2.5-0.5b-shape", 256, 4, None),
    Cell("qwen2.5-0.5b-shape", 512, 2, "2GB", "packed"),
)


def prediction(options: Options) -> Section:
    chosen = [cell for cell in (CELLS[::4] if options.quick else CELLS) if options.wants(cell.name)]
    found = {cell: _measured(cell, options.steps or (2 if options.quick else 4)) for cell in chosen}
    return Section(
        "prediction",
        "Memory: predicted, measured, and the cap",
        "Peak is VmHWM as the kernel counts it. The smallest cap is the one that pocketft's own advice names.",
        (Table("Cells", _COLUMNS, [_row(cell, run) for cell, run in found.items()]),),
        [run.to_json() for run in found.values()],
        summary,
    )


def summary(rows: Sequence[Sequence[str]]) -> Table:
    """Of rows of the table of cells."""
    ratios, caps_kept = ([row[_COLUMNS.index(column)] for row in rows] for column in ("predicted / peak", "cap kept"))
    kept, accuracy = "measured peak within the cap", "predicted / measured peak, lowest and highest"
    return Table(
        "All cells",
        ("row", "must", "aim", "measured"),
        [
            (kept, *goals(kept), f"{caps_kept.count('yes')} of {len(rows)}"),
            (accuracy, *goals(accuracy), spread([float(ratio) if ratio else None for ratio in ratios])),
        ],
    )


def _measured(cell: Cell, steps: int) -> Measured:
    ensure_model(cell.model)
    prepared: Prepared = prepare(Task(cell.model, cell.seq_length, cell.rows, steps))
    try:
        memory = cell.memory or smallest_memory(prepared)
    except NoPlan as why:
        return failed(cell.name, str(why))
    among = {} if cell.residence is None else {"residence": cell.residence}
    measured = measure(planned_job(cell.name, prepared, memory, among))
    tell_run(cell.name, measured)
    return measured


def _accuracy(run: Measured) -> float:
    return float(run.event("plan")["predicted_peak_bytes"] / run.peak_bytes)


def _kept(run: Measured) -> bool:
    return bool(run.peak_bytes <= run.event("plan")["cap_bytes"])


def _row(cell: Cell, run: Measured) -> tuple[str, ...]:
    plan = run.event("plan")
    if not run.ok:
        return (cell.name, *[""] * 5, run.error)
    return (
        cell.name,
        cells.size(plan["predicted_peak_bytes"]),
        cells.size(run.peak_bytes),
        cells.ratio(_accuracy(run)),
        cells.size(plan["cap_bytes"]),
        "yes" if _kept(run) else "NO",
        plan["choice"],
    )
