"""A run's answers to questions, with and without its adapter, from a process of its own: what training left in memory
would count against the cap of the chat.

Run as `python -m pocketft.cli.answers RUN CAP_BYTES`, questions as a JSON list on stdin, answers on stdout.
"""

from __future__ import annotations

import itertools
import json
import os
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import pocketft
from pocketft.errors import PocketftError

if TYPE_CHECKING:
    from pocketft.chat import ChatSession

_LONGEST_PIECES = 80


def answers(run: Path, cap_bytes: int, questions: Sequence[str]) -> list[dict[str, str]]:
    """`question`, `before` (the base alone) and `after`, for each question."""
    from pocketft.models.location import cache_home

    done = subprocess.run(
        [sys.executable, "-m", "pocketft.cli.answers", str(run.resolve()), str(cap_bytes)],
        cwd=Path(pocketft.__file__).resolve().parent.parent,  # no json.py among somebody's notes is imported
        env={**os.environ, "POCKETFT_HOME": str(cache_home())},  # absolute
        input=json.dumps(list(questions)),
        stdout=subprocess.PIPE,
        text=True,
        check=False,
    )
    if done.returncode != 0:
        raise PocketftError(f"the answers could not be had; try pocketft chat {run}")
    found: list[dict[str, str]] = json.loads(done.stdout)
    return found


def collect(session: ChatSession, questions: Sequence[str]) -> list[dict[str, str]]:
    return [
        {
            "question": question,
            "before": _answer(session, question, use_adapter=False),
            "after": _answer(session, question, use_adapter=True),
        }
        for question in questions
    ]


def _answer(session: ChatSession, question: str, *, use_adapter: bool) -> str:
    session.reset()
    session.use_adapter = use_adapter
    return " ".join("".join(itertools.islice(session.reply(question), _LONGEST_PIECES)).split())


def _main() -> None:
    from pocketft.chat import open_chat

    session = open_chat(Path(sys.argv[1]), int(sys.argv[2]), lambda event: None)  # training has told it all
    print(json.dumps(collect(session, json.load(sys.stdin))))


if __name__ == "__main__":
    from pocketft.cli.environment import set_defaults
    from pocketft.cli.exits import exit_code_of

    set_defaults()
    sys.exit(exit_code_of(_main))
