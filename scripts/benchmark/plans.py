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
    for kept, tiles, residence in product(("all", "none"), ("wide", "narrow"), ("dense", "packed", "streamed"))
]
_AGAIN = 3  # repeats of the chosen plan and the fastest of the others
_TRIES = 3  # of each run, to find a quiet one
_ONCE_MORE = ", again"


def plans(options: Options) -> Section:
    steps = options.steps or (2 if options.quick else 4)
    prepared = prepare(Task(_MODEL, seq_length=512, rows=4, steps=steps))
    tables, records, ratios = [], [], []
    for cap in _CAPS[:1] if options.quick else _CAPS:
        contenders = _contenders(prepared, cap, options)
        runs = _without_the_impossible(take_turns(contenders, options.repeats or 1, _TRIES))
        again = _the_best_again(f"{cap}: chosen", contenders, runs, options)
        tables.append(Table(f"Plans under {cap}", _COLUMNS, [_plan_row(*item) for item in (runs | again).items()]))
        records += run_records(runs | again)
        ratios += _chosen_ratio(cap, again) + _streamed_ratios(cap, runs)
    return Section(
        "plans",
        "The plan that is chosen",
        f"{_MODEL}, rows of 512 tokens, 2048 tokens an optimizer step. Each plan is the fastest of its kind that the "
        "planner finds under the cap; kinds that do not fit are left out. The chosen plan and the fastest of the "
        "others then take turns again, and their ratio is of these runs alone: the first of many is so by luck too. "
        "A run from which the host of a virtual machine took processor time is repeated, twice at most.",
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


def _the_best_again(chosen: str, contenders: Mapping[str, Callable[[], Job]], runs: Runs, options: Options) -> Runs:
    """The chosen plan and the fastest of the others, side by side."""
    rates = {name: median(_rates(found)) or 0.0 for name, found in runs.items()}
    others = [name for name in runs if name != chosen]
    if chosen not in runs or not others:
        return {}
    best = max(others, key=rates.__getitem__)
    pair = {name + _ONCE_MORE: contenders[name] for name in (chosen, best)}
    return take_turns(pair, options.repeats or (1 if options.quick else _AGAIN), _TRIES)


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


def _chosen_ratio(cap: str, again: Runs) -> list[tuple[str, ...]]:
    if len(again) != 2:
        return []
    (_, chosen), (best, others) = again.items()
    row = f"tokens/s: chosen plan under {cap} / best of the others"
    ratio = cells.ratio(median_ratio(_rates(chosen), _rates(others)))
    return [(row, *goals(row), f"{ratio} ({best.removesuffix(_ONCE_MORE)})")]


def _streamed_ratios(cap: str, runs: Runs) -> list[tuple[str, ...]]:
    rows: list[tuple[str, ...]] = []
    for kept in ("none", "all"):
        streamed, packed = f"{cap}: streamed, {kept} kept, wide tiles", f"{cap}: packed, {kept} kept, wide tiles"
        if streamed in runs and packed in runs:
            row = f"tokens/s: streamed / packed under {cap}, {kept} kept"
            ratio = cells.ratio(median_ratio(_rates(runs[streamed]), _rates(runs[packed])))
            rows.append((row, *goals(row), ratio))
    return rows


def _rates(found: list[Measured]) -> list[float | None]:
    return [run.tokens_per_s if run.ok else None for run in found]
