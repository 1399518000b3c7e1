"""Measure pocketft on this machine, beside its peers and alone.

    scripts/bench [compare]    pocketft and its peers in turn: tokens/s, memory, seconds to start, loss
    scripts/bench prediction   predicted against measured peak, and the cap
    scripts/bench plans        the chosen plan against the others that fit; streamed against packed weights
    scripts/bench cap          the smallest kernel memory limit that a run survives
    scripts/bench shapes       pocketft alone on random weights in the shapes of larger models
    scripts/bench all          all of it

Results go to docs/benchmarks.json and docs/benchmarks.md, with --quick to .bench/quick. Measure on an idle machine.
"""

from __future__ import annotations

import argparse
import importlib
import os
import shutil
import signal
import sys
from dataclasses import replace
from pathlib import Path

from benchmark.machine import machine, today, versions
from benchmark.options import Options
from benchmark.places import BENCH, DOCS, make_places
from benchmark.report import SECTIONS, save, show


def main() -> None:
    _end_in_order()
    arguments = _arguments()
    options = Options(
        repeats=arguments.repeats,
        steps=arguments.steps,
        quick=arguments.quick,
        only=tuple(arguments.only),
        peers=arguments.peers,
    )
    results = arguments.results or (BENCH / "quick" if options.quick else DOCS)
    make_places()
    for name in SECTIONS if arguments.section == "all" else (arguments.section,):
        measure_section(name, options, results)


def _end_in_order() -> None:
    """No run is left behind where this process is told to end, or its terminal goes."""
    for name in ("SIGTERM", "SIGHUP"):
        number = getattr(signal, name, None)  # Windows knows no SIGHUP; `nohup` ignores it, and so do we
        if number is not None and signal.getsignal(number) is not signal.SIG_IGN:
            signal.signal(number, lambda number, _frame: sys.exit(128 + number))


def measure_section(name: str, options: Options, results: Path) -> None:
    section = getattr(importlib.import_module(f"benchmark.{name}"), name)(options)
    if section is None:
        return
    section = replace(section, setting={"machine": machine(), "versions": versions(section.peers_python)})
    save(section, today(), results)
    print(show(section))
    print(f"\nwritten to {results / 'benchmarks.json'} and {results / 'benchmarks.md'}")


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="scripts/bench", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("section", nargs="?", default="compare", choices=(*SECTIONS, "all"))
    parser.add_argument(
        "--repeats", type=int, metavar="N", help="times that every contender runs; once in prediction and cap"
    )
    parser.add_argument(
        "--steps", type=int, metavar="N", help="optimizer steps of a run, the first not timed; not in cap"
    )
    parser.add_argument("--quick", action="store_true", help="one repeat, few steps and cells: does it work at all?")
    parser.add_argument("--only", action="append", default=[], metavar="NAME", help="rows whose name contains NAME")
    parser.add_argument("--peers", metavar="PYTHON", help="an interpreter that has TRL, instead of .bench/peers")
    parser.add_argument("--results", type=Path, metavar="DIR", help="where the results go")
    arguments = parser.parse_args()
    if arguments.peers:
        found = shutil.which(arguments.peers)
        if found is None:
            parser.error(f"--peers {arguments.peers}: there is no such interpreter")
        arguments.peers = os.path.abspath(found)  # not resolved: an environment's python is a link to another
    return arguments


if __name__ == "__main__":
    main()
