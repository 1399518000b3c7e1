"""The options that several verbs share: their names, help and order."""

from __future__ import annotations

from enum import Enum
from typing import Annotated, Any

import typer


class Device(str, Enum):
    auto = "auto"
    cpu = "cpu"
    cuda = "cuda"
    mps = "mps"


class Secrets(str, Enum):
    redact = "redact"
    keep = "keep"
    refuse = "refuse"


def _recipe_option(*names: str, **details: Any) -> Any:
    return typer.Option(*names, rich_help_panel="What to learn, and how", show_default=False, **details)


def _run_option(*names: str, **details: Any) -> Any:
    return typer.Option(*names, rich_help_panel="This run", show_default=False, **details)


_MODEL = "Catalog name, .gguf file, folder or hf:owner/name."
_MEMORY = "Cap on the whole process, e.g. 1GB. Default: 60% of what is free."
_RECIPE = "A name from `pocketft recipes`, or a YAML file."
_SET = "Any recipe value, e.g. lora.r=16. Repeatable."

Data = Annotated[list[str], typer.Argument(metavar="DATA", help="Files or folders of your text.", show_default=False)]
Run = Annotated[str, typer.Argument(metavar="RUN", help="A run folder.", show_default=False)]
Adapters = Annotated[
    list[str],
    typer.Argument(metavar="ADAPTER...", help="Folders of runs, merges or PEFT adapters.", show_default=False),
]
BaseName = Annotated[str, typer.Argument(metavar="M", help=_MODEL, show_default=False)]

Model = Annotated[str | None, _recipe_option("--model", metavar="M", help=_MODEL)]
Memory = Annotated[str | None, _recipe_option("--memory", metavar="SIZE", help=_MEMORY)]
RecipeName = Annotated[str | None, _recipe_option("--recipe", metavar="R", help=_RECIPE)]
Overrides = Annotated[list[str] | None, _recipe_option("--set", metavar="KEY=VALUE", help=_SET)]
Me = Annotated[
    str | None, _recipe_option("--me", metavar="NAME", help="Your name in chats and mail: the voice to learn.")
]
Column = Annotated[str | None, _recipe_option("--column", metavar="NAME", help="The column of CSV files to read.")]
SecretsChoice = Annotated[
    Secrets | None, _recipe_option("--secrets", help="Keys, passwords, card and phone numbers. Default: redact.")
]
Seed = Annotated[int | None, _recipe_option("--seed", metavar="N", help="For the order and the initial weights.")]
Init = Annotated[
    str | None, _recipe_option("--init", metavar="DIR", help="A start of `pocketft init-group`, and its recipe.")
]

Output = Annotated[
    str | None, _run_option("--output", "-o", metavar="DIR", help="Run folder. Default: runs/NAME-TIME.")
]
MaxSteps = Annotated[int | None, _run_option("--max-steps", metavar="N", min=1, help="Stop after N optimizer steps.")]
MaxTime = Annotated[str | None, _run_option("--max-time", metavar="TIME", help="Stop after e.g. 90s, 30m or 1h30m.")]
Resume = Annotated[bool, _run_option("--resume", help="Continue from the last checkpoint in --output.")]
Force = Annotated[bool, _run_option("--force", help="Replace the run in --output.")]
DeviceName = Annotated[Device, _run_option("--device", help="Where to compute. Default: auto.")]

Cap = Annotated[str | None, typer.Option("--memory", metavar="SIZE", help=_MEMORY, show_default=False)]
Json = Annotated[bool, typer.Option("--json", help="One JSON value on stdout, nothing else.")]
