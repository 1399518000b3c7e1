"""Is the plan that is chosen the fastest of those that fit? And what does streaming weights from disk cost?"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import partial
from itertools import product

from benchmark import cells
from benchmark.goals import goals
from benchmark.jobs import planned_job
from benchmark.medians import median, median_ratio, spread
from benchmark.options import Options
from benchmark.process import Job, Measured
from benchmark.report import Section, Table
from benchmark.text import Prepared, Task, prepare
from benchmark.turns import Runs, run_records, take_turns

_MODEL = "smollm2-135m"
_CAPS = ("4GB", "1GB")
_COLUMNS = ("plan", "tokens/s", "range", "foretold", "peak", "predicted", "what was run")
_KINDS = [
    {"residence": residence, "kept": kept, "tiles": tiles}
    for residence, kept, tiles in product(("dense", "packed", "streamed"), ("all", "none"), ("wide", "narrow"))
]


def plans(options: Options) -> Section:
    steps = options.steps or (2 if options.quick else 4)
    prepared = prepare(Task(_MODEL, seq_length=512, rows=4, steps=steps))
    tables, records, ratios = [], [], []
    for cap in _CAPS[:1] if options.quick else _CAPS:
        runs = _without_the_impossible(take_turns(_contenders(prepared, cap, options), options.repeats or 1))
        tables.append(Table(f"Plans under {cap}", _COLUMNS, [_plan_row(*item) for item in runs.items()]))
        records += run_records(runs)
        ratios += _ratios(cap, runs)
    return Section(
        "plans",
        "The plan that is chosen",
        f"{_MODEL}, rows of 512 tokens, 2048 tokens an optimizer step. Each plan is the fastest of its kind that the "
        "planner finds under the cap; kinds that do not fit are left out.",
        (Table("Chosen, streamed and packed", ("row", "must", "aim", "measured"), ratios), *tables),
        records,
    )


def _contenders(prepared: Prepared, cap: str, options: Options) -> dict[str, Callable[[], Job]]:
    named: dict[str, Mapping[str, str]] = {f"{cap}: chosen": {}}
    for kind in _KINDS:
        if not (options.quick and kind["tiles"] == "narrow"):
            named[f"{cap}: {kind['residence']}, {kind['kept']} kept, {kind['tiles']} tiles"] = kind
    return {
        name: partial(planned_job, name, prepared, cap, among) for name, among in named.items() if options.wants(name)
    }


def _without_the_impossible(runs: Runs) -> Runs:
    """Without the kinds for which the planner found no plan under the cap."""
    return {name: found for name, found in runs.items() if any(run.ok or run.events for run in found)}


def _plan_row(name: str, found: list[Measured]) -> tuple[str, ...]:
    good = [run for run in found if run.ok]
    if not good:
        return (name, *[""] * 5, found[-1].error)
    rates, plan = [run.tokens_per_s for run in good], good[-1].event("plan")
    return (
        name,
        cells.rate(median(rates)),
        spread(rates),
        cells.rate(plan.get("tokens_per_s")),
        cells.size(median([run.peak_bytes for run in good])),
        cells.size(plan.get("predicted_peak_bytes")),
        plan.get("choice", ""),
    )


def _ratios(cap: str, runs: Runs) -> list[tuple[str, ...]]:
    rates = {name: [run.tokens_per_s if run.ok else None for run in found] for name, found in runs.items()}
    rows: list[tuple[str, ...]] = []
    chosen = f"{cap}: chosen"
    others = {name: median(values) or 0.0 for name, values in rates.items() if name != chosen}
    if chosen in rates and others:
        best = max(others, key=lambda name: others[name])
        row = f"tokens/s: chosen plan under {cap} / best of the others"
        rows.append((row, *goals(row), f"{cells.ratio(median_ratio(rates[chosen], rates[best]))} ({best})"))
    for kept in ("none", "all"):
        streamed, packed = f"{cap}: streamed, {kept} kept, wide tiles", f"{cap}: packed, {kept} kept, wide tiles"
        if streamed in rates and packed in rates:
            row = f"tokens/s: streamed / packed under {cap}, {kept} kept"
            rows.append((row, *goals(row), cells.ratio(median_ratio(rates[streamed], rates[packed]))))
    return rows
