"""Measure pocketft on this machine, beside its peers and alone.

    scripts/bench [compare]    pocketft and its peers in turn: tokens/s, memory, seconds to start, loss
    scripts/bench prediction   predicted against measured peak, and the cap
    scripts/bench plans        the chosen plan against the others that fit; streamed against packed weights
    scripts/bench cap          the smallest kernel memory limit that a run survives
    scripts/bench shapes       pocketft alone on random weights in the shapes of larger models
    scripts/bench all          all of it

Results go to docs/benchmarks.json and docs/benchmarks.md. Measure on an idle machine.
"""

from __future__ import annotations

import argparse
import importlib
import signal
import sys
from pathlib import Path

from benchmark.machine import machine, today, versions
from benchmark.options import Options
from benchmark.places import DOCS, make_places
from benchmark.report import save, show

SECTIONS = ("compare", "prediction", "plans", "cap", "shapes")


def main() -> None:
    signal.signal(signal.SIGTERM, lambda number, _frame: sys.exit(128 + number))  # no run is left behind
    arguments = _parser().parse_args()
    options = Options(
        repeats=arguments.repeats,
        steps=arguments.steps,
        quick=arguments.quick,
        only=tuple(arguments.only),
        peers=arguments.peers,
    )
    make_places()
    for name in SECTIONS if arguments.section == "all" else (arguments.section,):
        measure_section(name, options, arguments.results)


def measure_section(name: str, options: Options, results: Path) -> None:
    from dataclasses import replace

    section = getattr(importlib.import_module(f"benchmark.{name}"), name)(options)
    if section is None:
        return
    peers = options.peers_python() if name == "compare" else None
    section = replace(section, setting={"machine": machine(), "versions": versions(peers)})
    save(section, today(), results)
    print(show(section))
    print(f"\nwritten to {results / 'benchmarks.json'} and {results / 'benchmarks.md'}")


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="scripts/bench", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("section", nargs="?", default="compare", choices=(*SECTIONS, "all"))
    parser.add_argument("--repeats", type=int, metavar="N", help="times that every contender runs")
    parser.add_argument("--steps", type=int, metavar="N", help="optimizer steps of a run, the first not timed")
    parser.add_argument("--quick", action="store_true", help="one repeat, few steps and cells: does it work at all?")
    parser.add_argument("--only", action="append", default=[], metavar="NAME", help="rows whose name contains NAME")
    parser.add_argument("--peers", metavar="PYTHON", help="an interpreter that has TRL, instead of .bench/peers")
    parser.add_argument("--results", type=Path, default=DOCS, metavar="DIR", help="where the results go; default docs")
    return parser


if __name__ == "__main__":
    main()
