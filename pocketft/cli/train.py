"""`pocketft train`: fine-tune a base model on the person's text."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import typer

from pocketft.cli import options
from pocketft.cli.choices import Choices
from pocketft.cli.console import facts, print_json, reporter
from pocketft.cli.run_options import run_options
from pocketft.memory.size import format_size

if TYPE_CHECKING:
    from pocketft.training.session import TrainResult


@run_options
def train(
    choices: Choices,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Show the plan and stop.")] = False,
    json: options.Json = False,
) -> None:
    """Fine-tune a model on your text and keep the adapter."""
    if dry_run:
        from pocketft.cli.plan import show_plan

        show_plan(choices, as_json=json)
        return
    request = choices.request()
    from pocketft.training.session import train as run_training

    with reporter(f"{request.recipe.model.name} → {request.output}") as report:
        result = run_training(request, report)
    if json:
        print_json(result)
    else:
        show_result(result)


def show_result(result: TrainResult) -> None:
    held_out = None
    if result.eval_loss is not None:
        held_out = f"{result.eval_loss:.4f}"
        if result.base_eval_loss is not None:
            held_out += f"  (base {result.base_eval_loss:.4f})"
    facts(
        [
            ("adapter", result.adapter),
            ("loss", None if result.loss is None else f"{result.loss:.4f}"),
            ("held-out loss", held_out),
            ("learned from", f"{result.tokens:,} tokens in {result.steps} steps"),
            ("speed", f"{result.tokens_per_s:.0f} tokens/s" if result.tokens_per_s else None),
            (
                "memory",
                f"predicted {format_size(result.predicted_peak_bytes)} · measured {format_size(result.peak_bytes)}"
                f" · cap {format_size(result.cap_bytes)}",
            ),
            ("try it", f"pocketft chat {result.adapter}"),
        ]
    )
