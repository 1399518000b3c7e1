"""The `pocketft` program: which verbs there are, and nothing of what they do."""

from __future__ import annotations

import sys
from collections.abc import Sequence

import typer

from pocketft import __version__
from pocketft.cli import environment
from pocketft.cli.chat import chat
from pocketft.cli.data import data_app
from pocketft.cli.demo import demo
from pocketft.cli.doctor import doctor
from pocketft.cli.eval import evaluate
from pocketft.cli.exits import exit_code_of
from pocketft.cli.export import export
from pocketft.cli.init_group import init_group
from pocketft.cli.inspect import inspect
from pocketft.cli.merge import merge
from pocketft.cli.models import models_app
from pocketft.cli.plan import plan
from pocketft.cli.recipes import recipes_app
from pocketft.cli.runs import runs
from pocketft.cli.train import train

app = typer.Typer(
    name="pocketft",
    help="Fine-tune a small language model on your own text, inside the memory you can spare.",
    add_completion=False,
    pretty_exceptions_enable=False,  # exits.py says it in one line
    context_settings={"help_option_names": ["-h", "--help"]},
    rich_markup_mode="rich",
)

_WORK = "Learn and use"
_ADAPTERS = "Adapters"
_LOOK = "Look around"


@app.callback(invoke_without_command=True)
def main(
    context: typer.Context,
    version: bool = typer.Option(False, "--version", help="Print the version and leave."),
) -> None:
    if version:
        print(f"pocketft {__version__}")
        raise typer.Exit
    if context.invoked_subcommand is None:
        print(context.get_help())


app.command("demo", rich_help_panel=_WORK)(demo)
app.command("train", rich_help_panel=_WORK)(train)
app.command("plan", rich_help_panel=_WORK)(plan)
app.command("chat", rich_help_panel=_WORK)(chat)
app.command("eval", rich_help_panel=_WORK)(evaluate)
app.command("merge", rich_help_panel=_ADAPTERS)(merge)
app.command("inspect", rich_help_panel=_ADAPTERS)(inspect)
app.command("export", rich_help_panel=_ADAPTERS)(export)
app.command("init-group", rich_help_panel=_ADAPTERS)(init_group)
app.add_typer(models_app, name="models", rich_help_panel=_LOOK)
app.add_typer(data_app, name="data", rich_help_panel=_LOOK)
app.add_typer(recipes_app, name="recipes", rich_help_panel=_LOOK)
app.command("runs", rich_help_panel=_LOOK)(runs)
app.command("doctor", rich_help_panel=_LOOK)(doctor)


def run(arguments: Sequence[str] | None = None) -> None:
    """The console script."""
    environment.set_defaults()
    for stream in (sys.stdout, sys.stderr):
        if hasattr(stream, "reconfigure"):  # a terminal that cannot show a character gets a question mark, not a crash
            stream.reconfigure(errors="replace")
    words = list(sys.argv[1:] if arguments is None else arguments)
    sys.exit(exit_code_of(lambda: app(args=words, prog_name="pocketft", standalone_mode=False)))
