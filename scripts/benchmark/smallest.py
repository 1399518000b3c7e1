"""The smallest `--memory` at which pocketft finds a plan: what its own advice says."""

from __future__ import annotations

import re
import subprocess

from benchmark.jobs import our_arguments
from benchmark.places import CHECKOUT, environment, our_python
from benchmark.text import Prepared


class NoPlan(Exception):
    """pocketft finds no plan, in its own words."""


_ADVICE = re.compile(r"use --memory (\d+)MB")


def smallest_memory(prepared: Prepared) -> str:
    """As `--memory` takes it. Raises NoPlan where there is none at any size."""
    megabytes = 64
    for _ in range(8):
        said = _plan(prepared, f"{megabytes}MB")
        if said is None:
            return f"{megabytes}MB"
        advice = _ADVICE.search(said)
        if advice is None:
            raise NoPlan(said.strip().splitlines()[-1] if said.strip() else "no plan")
        megabytes = max(int(advice[1]), megabytes + 10)
    raise NoPlan("pocketft's own advice leads to no plan")


def _plan(prepared: Prepared, memory: str) -> str | None:
    """None where there is a plan, else why not."""
    command = [our_python(), "-m", "pocketft", "plan", *our_arguments(prepared, memory), "--json"]
    asked = subprocess.run(command, capture_output=True, text=True, env=environment(), cwd=CHECKOUT)
    return None if asked.returncode == 0 else asked.stderr
