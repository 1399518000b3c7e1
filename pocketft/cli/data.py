"""`pocketft data`: what would be learned from a folder, before learning it."""

from __future__ import annotations

import typer

from pocketft.cli import options
from pocketft.cli.console import print_json, table

data_app = typer.Typer(help="Your text: what can be read, and what would be learned from it.")

_READABLE = (
    (".txt", "plain text, one document a file"),
    (".md", "Markdown; front matter is dropped"),
    (".jsonl", "one object a line: text, messages, or prompt and completion"),
)


@data_app.callback(invoke_without_command=True)
def bare(context: typer.Context, json: options.Json = False) -> None:
    """Your text: what can be read, and what would be learned from it."""
    if context.invoked_subcommand is not None:
        return
    if json:
        print_json([{"kind": kind, "what": what} for kind, what in _READABLE])
    else:
        table(["kind", "what is read"], _READABLE)


@data_app.command()
def inspect(
    data: options.Data,
    model: options.Model = None,
    recipe: options.RecipeName = None,
    overrides: options.Overrides = None,
    json: options.Json = False,
) -> None:
    """Count documents and tokens, and name what would be skipped and why."""
    raise NotImplementedError
