"""`pocketft eval`: the base model against the adapter, on held-out text and on neutral text."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from pocketft.cli import options
from pocketft.cli.choices import existing_paths
from pocketft.cli.console import print_json, reporter, table


def evaluate(
    run: Annotated[str, typer.Argument(metavar="RUN", help="A run folder.", show_default=False)],
    data: Annotated[list[str], typer.Option("--data", metavar="D", help="Text it has not seen. Repeatable.")],
    json: options.Json = False,
) -> None:
    """Measure an adapter against its base: what was learned, and what was forgotten."""
    (folder,), paths = existing_paths([run]), existing_paths(data)
    from pocketft.training.session import evaluate as run_evaluation

    with reporter(f"{folder}: evaluation") as report:
        result = run_evaluation(Path(folder), paths, report)
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


def _row(name: str, base: float, adapted: float) -> list[str]:
    return [name, f"{base:.4f}", f"{adapted:.4f}", f"{adapted - base:+.4f}"]
