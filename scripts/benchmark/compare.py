"""pocketft beside its peers on SmolLM2-135M: the same weights, tokens, LoRA, optimizer and threads, in turn."""

from __future__ import annotations

import subprocess
from collections.abc import Callable, Sequence
from contextlib import suppress
from functools import partial
from itertools import chain

from benchmark import cells
from benchmark.goals import goals
from benchmark.imports import plain_imports_bytes
from benchmark.jobs import PEER_KINDS, our_job, peer_job
from benchmark.medians import median, median_ratio, spread
from benchmark.options import Options
from benchmark.process import Job, Measured, figures
from benchmark.report import Section, Table
from benchmark.text import Task, prepare
from benchmark.turns import Runs, errors, run_records, take_turns

_MODEL = "smollm2-135m"
_OURS: dict[str, str | None] = {"pocketft": None, "pocketft 4GB": "4GB", "pocketft 512MB": "512MB"}

_PEERS = (
    "The peers train on the same values in bf16, one row a micro-batch, the same rows in the same order; QLoRA "
    "quantizes them to NF4 itself. TRL uses gradient checkpointing, as is its default. Loss is that of the last step."
)

# name of the row, of whose figure, over whose
_RATIOS: tuple[tuple[str, str, str, str], ...] = (
    ("tokens/s: default plan / TRL QLoRA", "tokens_per_s", "pocketft", "trl-qlora"),
    ("tokens/s: default plan / TRL LoRA bf16", "tokens_per_s", "pocketft", "trl-lora"),
    ("tokens/s: default plan / PEFT bf16 + checkpointing", "tokens_per_s", "pocketft", "peft-checkpointing"),
    ("tokens/s: --memory 4GB / PEFT bf16 without checkpointing", "tokens_per_s", "pocketft 4GB", "peft"),
    ("tokens/s: --memory 512MB / TRL QLoRA", "tokens_per_s", "pocketft 512MB", "trl-qlora"),
    ("peak: --memory 512MB / TRL QLoRA", "peak_bytes", "pocketft 512MB", "trl-qlora"),
    ("anonymous peak: --memory 512MB / TRL QLoRA", "anonymous_bytes", "pocketft 512MB", "trl-qlora"),
)


def compare(options: Options) -> Section:
    task = Task(_MODEL, seq_length=512, rows=4, steps=options.steps or (3 if options.quick else 6))
    prepared = prepare(task)
    contenders: dict[str, Callable[[], Job]] = {
        name: partial(our_job, name, prepared, memory) for name, memory in _OURS.items() if options.wants(name)
    }
    kinds = [kind for kind in PEER_KINDS if options.wants(kind)]
    python = options.peers_python() if kinds else None
    if python is not None:
        contenders |= {kind: partial(peer_job, kind, prepared, python) for kind in kinds}
    runs = take_turns(contenders, options.repeats or (1 if options.quick else 3))
    return Section(
        "compare",
        "Beside its peers",
        f"{_MODEL} (Q4_1 GGUF), rows of {task.seq_length} tokens, {task.tokens_per_step} tokens an optimizer step, "
        f"{task.steps} steps; LoRA r = 8, alpha = 16 on all linear layers, AdamW, learning rate 2e-4. {_PEERS}",
        (
            Table(
                "Contenders (medians)",
                _COLUMNS,
                [_contender(*item) for item in runs.items()],
                errors(chain(*runs.values())),
            ),
            Table("Ratios", ("row", "must", "aim", "measured"), _ratios(runs)),
            Table("Start", ("row", "must", "aim", "measured"), _start(runs)),
        ),
        run_records(runs),
        peers_python=python,
    )


_COLUMNS = ("contender", "tokens/s", "range", "peak", "anonymous", "ready s", "first step s", "loss", "runs")


def _contender(name: str, found: Sequence[Measured]) -> tuple[str, ...]:
    good = [run for run in found if run.ok]
    if not good:
        return (PEER_KINDS.get(name, name), *[""] * 7, f"0 of {len(found)}")
    rates = [run.tokens_per_s for run in good]
    return (
        PEER_KINDS.get(name, name),
        cells.rate(median(rates)),
        spread(rates),
        cells.size(median([run.peak_bytes for run in good])),
        cells.size(median([run.anonymous_bytes for run in good])),
        cells.seconds(median([run.ready_s for run in good])),
        cells.seconds(median([run.first_step_s for run in good])),
        cells.loss(median([run.loss for run in good])),
        f"{len(good)} of {len(found)}",
    )


def _ratios(runs: Runs) -> list[tuple[str, ...]]:
    rows: list[tuple[str, ...]] = []
    for name, figure, ours, theirs in _RATIOS:
        if ours in runs and theirs in runs:
            found = median_ratio(figures(runs[ours], figure), figures(runs[theirs], figure))
            rows.append((name, *goals(name), cells.ratio(found)))
    return rows


def _start(runs: Runs) -> list[tuple[str, ...]]:
    """How long until training begins, and what the libraries take by then."""
    ours = [run for run in runs.get("pocketft", ()) if run.ok]
    if not ours:
        return []
    begun = "seconds from command to first optimizer step, warm cache"
    lean, plain, given_back = (
        "memory after imports, as pocketft imports",
        "memory after imports, plain imports of the same libraries",
        "the same, pages that importing touched given back as in pocketft",
    )
    imports = [run.event("plan").get("components", {}).get("imports") for run in ours]
    plain_bytes: int | None = None
    given_back_bytes: int | None = None
    with suppress(subprocess.CalledProcessError):
        plain_bytes, given_back_bytes = plain_imports_bytes()
    return [
        (begun, *goals(begun), cells.seconds(median([run.ready_s for run in ours]))),
        (lean, *goals(lean), cells.size(median(imports))),
        (plain, *goals(plain), cells.size(plain_bytes)),
        (given_back, *goals(given_back), cells.size(given_back_bytes)),
    ]
