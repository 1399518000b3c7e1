"""`pocketft data`: what can be read, and what would be learned from a folder before learning it."""

from __future__ import annotations

import sys

import typer

from pocketft.cli import options
from pocketft.cli.choices import Choices, existing_paths
from pocketft.cli.console import facts, print_json, reporter, table

data_app = typer.Typer(help="Your text: what can be read, and what would be learned from it.")


@data_app.callback(invoke_without_command=True)
def bare(context: typer.Context, json: options.Json = False) -> None:
    """Your text: what can be read, and what would be learned from it."""
    if context.invoked_subcommand is not None:
        return
    from pocketft.data.readers.choose import READERS

    # Each reader's file says in its first line what it reads.
    kinds = [
        (reader.name, (sys.modules[reader.read.__module__].__doc__ or "").partition("\n")[0]) for reader in READERS
    ]
    if json:
        print_json([{"kind": kind, "what": what} for kind, what in kinds])
    else:
        table(["kind", "what is read"], kinds)


@data_app.command()
def inspect(
    data: options.Data,
    model: options.Model = None,
    recipe: options.RecipeName = None,
    overrides: options.Overrides = None,
    json: options.Json = False,
) -> None:
    """Count documents and tokens, and name what is skipped and why. Nothing is trained."""
    paths = existing_paths(data)
    chosen = Choices(data, model, None, recipe, overrides or ()).resolved_recipe()
    from pocketft.data.layout import DataSettings
    from pocketft.training.preparation import open_base, prepare_text

    with reporter(f"{paths[0].name}: reading") as report:
        base = open_base(chosen.model.name, chosen.model.quantization, report)
        settings = DataSettings(
            chosen.data.max_seq_length, chosen.data.val_split, chosen.data.packing, chosen.training.seed
        )
        found = prepare_text(paths, base, settings, report).report
    if json:
        print_json(found)
        return
    facts(
        [
            ("files", ", ".join(f"{count} {kind}" for kind, count in found.files.items())),
            ("documents", f"{found.documents:,}" + (f", {found.chats:,} of them chats" if found.chats else "")),
            ("tokens", f"{found.tokens:,}, {found.loss_tokens:,} of them to learn"),
            ("to learn from", f"{found.train_tokens:,} tokens in {found.train_rows:,} rows"),
            ("held out", f"{found.val_tokens:,} tokens in {found.val_rows:,} rows" if found.val_rows else "nothing"),
            *(("left out", f"{count} × {reason}") for reason, count in found.files_skipped.items()),
            *(("unusable", f"{where}: {reason}") for where, reason in found.bad),
        ]
    )
