"""`pocketft demo`: train on the sample notes, then ask the base and the adapter the same questions."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from pocketft.cli import options
from pocketft.cli.answers import answers
from pocketft.cli.choices import Choices, default_output
from pocketft.cli.console import notice, print_json, reporter
from pocketft.cli.train import show_result

# The notes are one evening's reading: one pass of the default recipe would be over before its warm-up. Every row a step
# and a higher rate show the difference in two minutes on two cores.
_FOR_A_SHORT_TEXT = (
    "training.epochs=3",
    "training.gradient_accumulation=1",
    "training.learning_rate=1e-3",
    "training.warmup_steps=8",
    "training.save_steps=100",
    "eval.steps=0",
)
_LONGEST = "150s"  # a slower machine stops there, with what it has learned by then


def demo(
    memory: options.Cap = "1GB",
    output: options.Output = None,
    force: options.Force = False,
    seed: options.Seed = None,
    json: options.Json = False,
) -> None:
    """Train on sample notes in a few minutes and compare answers before and after."""
    from pocketft.samples import QUESTIONS, notes_folder

    notes = notes_folder()
    notice(f"Learning from the sample notes in {notes}")
    choices = Choices(
        [str(notes)],
        memory=memory,
        recipe="default",
        overrides=_FOR_A_SHORT_TEXT,
        seed=seed,
        output=output or str(default_output(["demo"])),
        max_time=_LONGEST,
        force=force,
    )
    request = choices.request()
    from pocketft.training.session import train

    with reporter(f"{request.recipe.model.name} → {request.output}") as report:
        result = train(request, report)
    if not json:
        show_result(result)

    asked = answers(Path(result.adapter), result.cap_bytes, QUESTIONS)
    if json:
        from pocketft.cli.console import plain

        training: dict[str, Any] = plain(result)
        print_json({**training, "answers": asked})
        return
    for one in asked:
        print(f"\n? {one['question']}\n  before: {one['before']}\n  after:  {one['after']}")
