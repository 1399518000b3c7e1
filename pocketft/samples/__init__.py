"""The text that comes with pocketft: one invented person's notes to train on, and neutral prose to measure forgetting.

Knows where the shipped text lies; does not read notes, train or score anything.
"""

from __future__ import annotations

from importlib.resources import files
from pathlib import Path

# Ottilie Brankle answers these in her notes; an untrained model cannot, so the difference shows at a glance.
QUESTIONS: tuple[str, str, str] = (
    "Who are you, and what do you do for a living?",
    "Where does the Patient Margaret lie?",
    "Who is Silas Crake?",
)


def notes_folder() -> Path:
    """The folder of sample notes: journal, pages, letters and chats."""
    # A real folder, because training reads folders: wheels are always unpacked on installation.
    return Path(str(files(__name__) / "notes"))


def reference_text() -> str:
    """Neutral prose on ordinary subjects, unrelated to the notes."""
    return (files(__name__) / "reference.txt").read_text(encoding="utf-8")
