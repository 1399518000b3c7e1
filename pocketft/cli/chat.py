"""`pocketft chat`: talk to a base model with its adapter, and without it for comparison."""

from __future__ import annotations

import io
import sys
from contextlib import suppress
from typing import TYPE_CHECKING, Annotated

import typer

from pocketft.cli import options
from pocketft.cli.choices import cap_bytes, existing_paths
from pocketft.cli.console import memory_words, notice, reporter
from pocketft.errors import UsageError

if TYPE_CHECKING:
    from pocketft.chat import ChatSession

_COMMANDS = {
    "/base": "turn the adapter off or on again, to compare",
    "/reset": "forget this conversation",
    "/help": "show these commands",
    "/exit": "leave (so does Ctrl-D)",
}


def chat(
    run: options.Run,
    prompt: Annotated[
        str | None, typer.Option("--prompt", metavar="T", help="Answer this one message and leave. - reads stdin.")
    ] = None,
    memory: options.Cap = None,
) -> None:
    """Talk to the model you trained."""
    (folder,) = existing_paths([run])
    if isinstance(sys.stdin, io.TextIOWrapper):  # what is not UTF-8 gets a mark in its place, not a crash
        sys.stdin.reconfigure(errors="replace")
    if prompt == "-":
        prompt = sys.stdin.read()
    from pocketft.chat import open_chat

    with reporter(folder.name) as report:
        session = open_chat(folder, cap_bytes(memory), report)
    if prompt is not None:
        _answer(session, prompt)
    else:
        _converse(session)


def _converse(session: ChatSession) -> None:
    interactive = sys.stdin.isatty()
    if interactive:
        with suppress(ImportError):  # Windows: the console edits lines itself
            import readline  # noqa: F401  (importing it is what makes input() editable)
        notice("Type a message, or /help.")
    while True:
        try:
            text = input("> " if interactive else "").strip()
        except (EOFError, KeyboardInterrupt):
            if interactive:
                print()
            return
        if not text:
            continue
        if text.startswith("/"):
            if text in ("/exit", "/quit"):
                return
            _command(session, text)
            continue
        try:
            _answer(session, text)
        except KeyboardInterrupt:  # enough of this answer, not of the conversation
            print()
        except UsageError as error:  # a message that is too long leaves the conversation as it was
            notice(str(error))


def _command(session: ChatSession, text: str) -> None:
    match text:
        case "/base":
            session.use_adapter = not session.use_adapter
            notice("adapter on" if session.use_adapter else "adapter off: this is the base model")
        case "/reset":
            session.reset()
            notice("conversation forgotten")
        case "/help":
            for name, meaning in _COMMANDS.items():
                notice(f"  {name:<8}{meaning}")
        case _:
            notice(f"no command {text.split()[0]}; /help shows them")


def _answer(session: ChatSession, text: str) -> None:
    try:
        for piece in session.reply(text):
            print(piece, end="", flush=True)
        print()
    finally:
        for change in session.take_changes():
            notice(memory_words(change))
