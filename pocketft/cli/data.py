"""`pocketft data`: what can be read, what would be learned from a folder, and the same as JSON Lines."""

from __future__ import annotations

import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any

import typer

from pocketft.cli import options
from pocketft.cli.choices import Choices, existing_paths
from pocketft.cli.console import duration, facts, notice, print_json, reporter, table
from pocketft.errors import UsageError

data_app = typer.Typer(help="Your text: what can be read, and what would be learned from it.")

_BAR = 40
_SAMPLE_CHARS = 240


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
    memory: options.Memory = None,
    recipe: options.RecipeName = None,
    overrides: options.Overrides = None,
    me: options.Me = None,
    column: options.Column = None,
    secrets: options.SecretsChoice = None,
    json: options.Json = False,
) -> None:
    """Show what was found, what is skipped and why, and how long an epoch takes. Nothing is trained."""
    choices = Choices(
        data, model, memory, recipe, overrides or (), me=me, column=column, secrets=secrets and secrets.value
    )
    request = choices.request()
    from pocketft.training.look import look

    with reporter(f"{request.data[0].name}: reading") as report:
        # Notices are part of the result here, and the plan is only asked for its speed.
        seen = look(request, lambda event: None if event["event"] in ("notice", "plan") else report(event))
    if json:
        print_json(seen)
    else:
        _show(seen)


@data_app.command()
def export(
    data: options.Data,
    output: Annotated[
        str | None, typer.Option("--output", "-o", metavar="FILE", help="Default: stdout.", show_default=False)
    ] = None,
    recipe: options.RecipeName = None,
    overrides: options.Overrides = None,
    me: options.Me = None,
    column: options.Column = None,
    secrets: options.SecretsChoice = None,
    force: options.Force = False,
) -> None:
    """Write the documents as they would be learned, as JSON Lines."""
    paths = existing_paths(data)
    if output is not None and Path(output).expanduser().exists() and not force:
        raise UsageError(f"{output} exists; choose another file with --output, or replace it with --force")
    choices = Choices(
        data, None, None, recipe, overrides or (), me=me, column=column, secrets=secrets and secrets.value
    )
    chosen = choices.resolved_recipe()
    from pocketft.data.documents import ReadReport
    from pocketft.data.export import write_documents
    from pocketft.data.reading import read
    from pocketft.errors import DataError
    from pocketft.files import atomic_path
    from pocketft.training.data_settings import data_settings

    account = ReadReport()
    documents = read(paths, data_settings(chosen), account)
    if output is None:
        count = write_documents(documents, sys.stdout)
    else:
        with atomic_path(Path(output).expanduser()) as path, path.open("w", encoding="utf-8") as file:
            count = write_documents(documents, file)
            if not count:
                raise DataError(f"nothing to export: {account.why_nothing()}")
    for message in account.notices():
        notice(f"warning: {message}")
    if not count:
        raise DataError(f"nothing to export: {account.why_nothing()}")
    notice(f"{count:,} document{'' if count == 1 else 's'}" + (f" in {output}" if output else ""))


def _show(seen: Mapping[str, Any]) -> None:
    epoch = seen["epoch"]
    table(
        ["kind", "files", "documents", "characters"],
        [
            (kind, f"{seen['files'].get(kind, 0):,}", f"{count:,}", f"{seen['characters'][kind]:,}")
            for kind, count in seen["read"].items()
        ],
    )
    print()
    facts(
        [
            ("documents", f"{seen['documents']:,}" + (f", {seen['chats']:,} of them chats" if seen["chats"] else "")),
            ("tokens", f"{seen['tokens']:,}, {seen['loss_tokens']:,} of them to learn"),
            ("to learn from", f"{seen['train_tokens']:,} tokens in {seen['train_rows']:,} rows"),
            (
                "held out",
                f"{seen['val_tokens']:,} tokens in {seen['val_rows']:,} rows" if seen["val_rows"] else "nothing",
            ),
            ("dates", " to ".join(day for day in seen["dates"] if day)),
            ("languages", ", ".join(f"{name} {count:,}" for name, count in seen["languages"].items())),
            ("voice", _voice(seen)),
            ("one epoch", f"{duration(epoch['seconds'])} at {epoch['tokens_per_s']:.0f} tokens/s" if epoch else None),
        ]
    )
    print("\ntokens per document")
    _histogram(seen["lengths"])
    for message in seen["notices"]:
        print(f"\n{message}" if message == seen["notices"][0] else message)
    for number, text in enumerate(seen["samples"], start=1):
        shown = " ".join(text.split())
        print(f"\nsample {number}: {shown[:_SAMPLE_CHARS]}{' …' if len(shown) > _SAMPLE_CHARS else ''}")


def _voice(seen: Mapping[str, Any]) -> str | None:
    if not seen["people"]:
        return None
    if not seen["voice"]:
        return "everybody's"
    return seen["voice"] + (" (guessed)" if seen["voice_guessed"] else "")


def _histogram(lengths: Sequence[Mapping[str, Any]]) -> None:
    most = max((entry["documents"] for entry in lengths), default=1)
    ranges = [f"{entry['first']:,}-{entry['last']:,}" for entry in lengths]
    width = max(map(len, ranges), default=0)
    for entry, shown in zip(lengths, ranges, strict=True):
        bar = "▇" * max(entry["documents"] > 0, round(_BAR * entry["documents"] / most))
        print(f"  {shown:>{width}}  {bar} {entry['documents']:,}")
