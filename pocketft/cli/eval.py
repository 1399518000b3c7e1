"""`pocketft eval`: the base model against the adapter, on held-out text and on neutral text."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Annotated

import typer

from pocketft.cli import options
from pocketft.cli.choices import existing_paths
from pocketft.cli.console import print_json, reporter, table
from pocketft.errors import UsageError


def evaluate(
    run: options.Run,
    data: Annotated[
        list[str] | None,
        typer.Option(
            "--data", metavar="D", help="Text it has not seen. With --leaks: the text it was trained on. Repeatable."
        ),
    ] = None,
    memory: options.Cap = None,
    leaks: Annotated[bool, typer.Option("--leaks", help="Does it give away what it was trained on?")] = False,
    json: options.Json = False,
) -> None:
    """Measure an adapter against its base: what was learned, what was forgotten, and what it gives away."""
    (folder,), paths = existing_paths([run]), existing_paths(data or [])
    if leaks:
        show_leaks(folder, paths, memory, as_json=json)
        return
    if not paths:
        raise UsageError("no text to measure on; name some that the adapter has not seen with --data, or ask --leaks")
    from pocketft.training.session import evaluate as run_evaluation

    with reporter(f"{folder}: evaluation") as report:
        result = run_evaluation(folder, paths, report, memory)
    if json:
        print_json(result)
        return
    table(
        ["", "base", "with adapter", "change"],
        [
            _row("loss on your text", result.base_loss, result.loss),
            _row("perplexity on your text", result.base_perplexity, result.perplexity),
            _row("loss on neutral text", result.reference_base_loss, result.reference_loss),
        ],
    )


def show_leaks(folder: Path, paths: Sequence[Path], memory: str | None, *, as_json: bool) -> None:
    from pocketft.training.leaks import find_leaks

    with reporter(f"{folder}: leaks") as report:
        result = find_leaks(folder, paths, report, memory)
    if as_json:
        print_json(result)
        return
    if result.values:
        table(
            ["what only the text holds", "times", "bits", "exposure, base", "with adapter", ""],
            [
                [
                    value.what,
                    value.repeats,
                    f"{value.bits:.0f}",
                    f"{value.base_exposure:.1f}",
                    f"{value.exposure:.1f}",
                    "leaks" if value.leaked else "",
                ]
                for value in result.values
            ],
        )
        print()
    sides = (("training text", result.training), ("neutral" if result.neutral else "held-out text", result.held_out))
    table(
        ["passages completed word for word", "asked", "base", "with adapter"],
        [[name, side.passages, side.base, side.adapter] for name, side in sides],
    )
    print(f"\n{result.verdict}")


def _row(name: str, base: float, adapted: float) -> list[str]:
    return [name, f"{base:.4f}", f"{adapted:.4f}", f"{adapted - base:+.4f}"]
