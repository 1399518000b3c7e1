"""The shipped text must be whole and of the size the demo was timed with."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest

from pocketft import samples

NOTE_FILES = sorted(path for path in samples.notes_folder().rglob("*") if path.is_file())
CHAT_FILES = [path for path in NOTE_FILES if path.suffix == ".jsonl"]


def test_notes_have_the_size_that_the_demo_counts_on() -> None:
    assert 60_000 <= sum(path.stat().st_size for path in NOTE_FILES) <= 100_000


def test_notes_cover_every_kind_of_file_a_person_may_have() -> None:
    assert {path.suffix for path in NOTE_FILES} == {".md", ".txt", ".jsonl"}


@pytest.mark.parametrize("path", NOTE_FILES, ids=lambda path: path.name)
def test_every_note_is_utf8_with_text_in_it(path: Path) -> None:
    assert path.read_text(encoding="utf-8").strip()


@pytest.mark.parametrize("path", CHAT_FILES, ids=lambda path: path.name)
def test_every_chat_alternates_and_ends_with_the_assistant(path: Path) -> None:
    for line in path.read_text(encoding="utf-8").splitlines():
        messages = json.loads(line)["messages"]
        roles = [message["role"] for message in messages]
        assert roles == ["user", "assistant"] * (len(roles) // 2) and roles
        assert all(message["content"].strip() for message in messages)


def test_wiki_links_lead_to_a_note() -> None:
    titles = {path.stem for path in NOTE_FILES} | {"The Patient Margaret", "Little Hask"}
    text = "\n".join(path.read_text(encoding="utf-8") for path in NOTE_FILES if path.suffix == ".md")
    links = re.findall(r"\[\[([^\]|]+)", text)
    assert links and set(links) <= titles


def test_notes_hold_nothing_that_looks_like_contact_data() -> None:
    text = "\n".join(path.read_text(encoding="utf-8") for path in NOTE_FILES)
    assert not re.search(r"\S@\S|https?://|\d{5,}", text)


def test_reference_text_shares_no_name_with_the_notes() -> None:
    text = samples.reference_text()
    assert 8_000 <= len(text.encode()) <= 10_000
    for name in ("Ottilie", "Silas", "Saltmarrow", "Bishop", "Hask", "Juno"):
        assert name not in text


def test_questions_are_questions_the_notes_can_answer() -> None:
    assert len(samples.QUESTIONS) == 3
    assert all(question.endswith("?") for question in samples.QUESTIONS)
    text = "\n".join(path.read_text(encoding="utf-8") for path in NOTE_FILES)
    for answer in ("I mend harmoniums", "lies at Gannet Hard", "Silas Crake is the boatbuilder"):
        assert answer in text.replace("**", "")


def test_questions_are_not_copied_from_the_chats() -> None:
    asked = {
        message["content"]
        for path in CHAT_FILES
        for line in path.read_text(encoding="utf-8").splitlines()
        for message in json.loads(line)["messages"]
        if message["role"] == "user"
    }
    assert not asked & set(samples.QUESTIONS)
