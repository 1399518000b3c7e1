"""`pocketft data`: what can be read, what would be learned from a folder, and the same as JSON Lines."""

from __future__ import annotations

import io
import os
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated, Any, TextIO

import typer

from pocketft.cli import options
from pocketft.cli.choices import Choices, existing_paths
from pocketft.cli.console import duration, facts, notice, print_json, reporter, table
from pocketft.cli.run_options import choosing
from pocketft.errors import UsageError
from pocketft.files import atomic_path, expanded

data_app = typer.Typer(help="Your text: what can be read, and what would be learned from it.")

_READING = ("data", "recipe", "overrides", "me", "column", "secrets")
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
@choosing("model", "memory", *_READING)
def inspect(choices: Choices, json: options.Json = False) -> None:
    """Show what was found, what is skipped and why, and how long an epoch takes. Nothing is trained."""
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
@choosing(*_READING)
def export(
    choices: Choices,
    output: Annotated[
        str | None, typer.Option("--output", "-o", metavar="FILE", help="Default: stdout.", show_default=False)
    ] = None,
    force: options.Force = False,
) -> None:
    """Write the documents as they would be learned, as JSON Lines."""
    paths = existing_paths(choices.data)
    target = None if output is None else _free_file(expanded(output), force=force)
    chosen = choices.resolved_recipe()
    from pocketft.data.documents import ReadReport
    from pocketft.data.export import write_documents
    from pocketft.data.reading import read
    from pocketft.errors import DataError
    from pocketft.training.data_settings import data_settings

    account = ReadReport()
    documents = read(paths, data_settings(chosen), account)
    with _jsonl(target) as file:
        count = write_documents(documents, file)
        if not count:
            raise DataError(f"nothing to export: {account.why_nothing()}")
    for message in account.notices():
        notice(f"warning: {message}")
    notice(f"{count:,} document{'' if count == 1 else 's'}" + (f" in {output}" if output else ""))


def _free_file(path: Path, *, force: bool) -> Path:
    if os.path.isdir(path):
        raise UsageError(f"{path} is a folder; name a file with --output, for example {path / 'text.jsonl'}")
    if os.path.exists(path) and not force:
        raise UsageError(f"{path} exists; choose another file with --output, or replace it with --force")
    return path


@contextmanager
def _jsonl(target: Path | None) -> Iterator[TextIO]:
    """JSON Lines are UTF-8, whatever a terminal shows."""
    if target is None:
        if isinstance(sys.stdout, io.TextIOWrapper):
            sys.stdout.reconfigure(encoding="utf-8")
        yield sys.stdout
        return
    with atomic_path(target) as path, path.open("w", encoding="utf-8") as file:
        yield file


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
