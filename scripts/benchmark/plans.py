"""Is the plan that is chosen the fastest of those that fit? And what does streaming weights from disk cost?"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from itertools import product

from benchmark import cells
from benchmark.goals import goals
from benchmark.jobs import planned_job
from benchmark.medians import median, spread
from benchmark.options import Options
from benchmark.process import Job, Measured, figures
from benchmark.report import Section, Table
from benchmark.side_by_side import Pair, side_by_side
from benchmark.text import Prepared, Task, prepare
from benchmark.turns import errors

_MODEL = "smollm2-135m"
_CAPS = ("4GB", "1GB")
_COLUMNS = ("plan", "chosen / this", "tokens/s", "range", "foretold", "peak", "predicted", "what was run")
_KINDS = [
    {"residence": residence, "kept": kept, "tiles": tiles}
    for kept, tiles, residence in product(("all", "none"), ("wide", "narrow"), ("dense", "packed", "streamed"))
]
_AGAIN = 3  # repeats of a pair that a goal is about

Contenders = Mapping[str, Callable[[], Job]]


def plans(options: Options) -> Section:
    prepared = prepare(Task(_MODEL, seq_length=512, rows=4, steps=options.steps or (2 if options.quick else 3)))
    tables, goal_rows, records = [], [], []
    for cap in _CAPS[:1] if options.quick else _CAPS:
        chosen, others = _contenders(prepared, cap, options)
        beside = _possible({name: side_by_side(make_job, chosen, 1) for name, make_job in others.items()})
        again = _again(cap, chosen, others, beside, options.repeats or (1 if options.quick else _AGAIN))
        rows, pairs = _plan_rows(f"{cap}: chosen", beside), [*beside.values(), *again.values()]
        tables.append(
            Table(
                f"Plans under {cap}", _COLUMNS, rows, errors(run for pair in pairs for run in (*pair.one, *pair.other))
            )
        )
        goal_rows += [(row, *goals(row), f"{pair.told()}: {pair.other[0].name}") for row, pair in again.items()]
        records += [record for pair in pairs for record in pair.records()]
    return Section(
        "plans",
        "The plan that is chosen",
        f"{_MODEL}, rows of 512 tokens, 2048 tokens an optimizer step. Each plan is the fastest of its kind that the "
        "planner finds under the cap; kinds that do not fit are left out. Each runs side by side with the chosen plan: "
        "both processes are there, and every two seconds the one stops and the other goes on. The fastest of them does "
        "so again, and the ratio of the first table is of these runs alone: the first of many is so by luck too. "
        "Streamed runs beside packed in the same way, without the chosen plan.",
        (Table("Chosen, streamed and packed", ("row", "must", "aim", "measured"), goal_rows), *tables),
        records,
    )


def _again(
    cap: str, chosen: Callable[[], Job], others: Contenders, beside: Mapping[str, Pair], repeats: int
) -> dict[str, Pair]:
    """Row with a goal -> the pair that it is about, several times."""
    found = {}
    if len(others) == len(_KINDS) and beside:  # the best of some is not the best
        best = max(beside, key=lambda name: beside[name].ratio or 0.0)
        row = f"tokens/s: chosen plan under {cap} / best of the others"
        found[row] = side_by_side(chosen, others[best], repeats)
    for kept in ("none", "all"):
        streamed, packed = (f"{cap}: {residence}, {kept} kept, wide tiles" for residence in ("streamed", "packed"))
        if streamed in beside and packed in beside:
            row = f"tokens/s: streamed / packed under {cap}, {kept} kept"
            found[row] = side_by_side(others[streamed], others[packed], repeats)
    return found


def _contenders(prepared: Prepared, cap: str, options: Options) -> tuple[Callable[[], Job], Contenders]:
    """What makes a run of the chosen plan, and runs of the others."""
    named = {
        f"{cap}: {kind['residence']}, {kind['kept']} kept, {kind['tiles']} tiles": kind
        for kind in _KINDS
        if not (options.quick and kind["tiles"] == "narrow")
    }
    others = {
        name: partial(planned_job, name, prepared, cap, kind) for name, kind in named.items() if options.wants(name)
    }
    chosen = f"{cap}: chosen"
    return partial(planned_job, chosen, prepared, cap, {}), others


def _possible(beside: Mapping[str, Pair]) -> dict[str, Pair]:
    """Without the kinds for which the planner found no plan under the cap. What fails otherwise stays, and says why."""
    return {name: pair for name, pair in beside.items() if not any("no plan fits" in run.error for run in pair.one)}


def _plan_rows(chosen: str, beside: Mapping[str, Pair]) -> list[tuple[str, ...]]:
    if not beside:
        return []
    rows = [(chosen, "", *_figures([run for pair in beside.values() for run in pair.other]))]
    for name, pair in beside.items():
        rows.append((name, cells.ratio(Pair(pair.other, pair.one).ratio), *_figures(pair.one)))
    return rows


def _figures(found: Sequence[Measured]) -> tuple[str, ...]:
    good = [run for run in found if run.ok]
    if not good:
        return (*[""] * 5, found[-1].error)
    plan, rates = good[-1].event("plan"), figures(good, "tokens_per_s")
    return (
        cells.rate(median(rates)),
        spread(rates),
        cells.rate(plan.get("tokens_per_s")),
        cells.size(median([run.peak_bytes for run in good])),
        cells.size(plan.get("predicted_peak_bytes")),
        plan.get("choice", ""),
    )
