"""Contenders in turn: each once in every repeat, so that what changes on the machine changes for all."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterable, Mapping

from benchmark.process import Job, Measured, measure
from pocketft.memory.size import format_size

Runs = dict[str, list[Measured]]


def take_turns(contenders: Mapping[str, Callable[[], Job]], repeats: int) -> Runs:
    """Contender -> one measurement per repeat. The order turns around every other time."""
    runs: Runs = {name: [] for name in contenders}
    for repeat in range(repeats):
        names = list(contenders)
        for name in names if repeat % 2 == 0 else reversed(names):
            runs[name].append(measure(contenders[name]()))
            tell_run(f"[{repeat + 1}/{repeats}] {name}", runs[name][-1])
    return runs


def tell_run(name: str, measured: Measured) -> None:
    """One line on stderr for whoever waits."""
    if not measured.ok:
        print(f"{name}: {measured.error or 'no steps'}", file=sys.stderr, flush=True)
        return
    rate = "" if measured.tokens_per_s is None else f"{measured.tokens_per_s:.1f} tokens/s, "
    print(
        f"{name}: {rate}peak {format_size(measured.peak_bytes)}, "
        f"anonymous {format_size(measured.anonymous_bytes or 0)}, loss {measured.loss}, {measured.wall_s:.0f} s, "
        f"{measured.stolen_share:.1%} of it stolen",
        file=sys.stderr,
        flush=True,
    )


def run_records(runs: Runs) -> list[dict[str, object]]:
    """Every single run, for the JSON."""
    return [
        {"repeat": repeat, **measured.to_json()}
        for list_of_runs in runs.values()
        for repeat, measured in enumerate(list_of_runs, start=1)
    ]


def errors(runs: Iterable[Measured]) -> str:
    """What went wrong, for the line below a table; "" where nothing did."""
    return " ".join(dict.fromkeys(f"*{run.name}*: {run.error}." for run in runs if run.error))
