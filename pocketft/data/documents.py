"""What readers hand on: documents, the turns of a conversation, and the account of what could not be read.

Knows nothing of files' formats or of tokens.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from pocketft.data.cleaning.account import CleanReport
from pocketft.data.secrets import redacted, scan

EXAMPLES_KEPT = 20  # an account stays small however many files are bad


@dataclass(frozen=True)
class Turn:
    """One message. `fields` carries what else the model's template may know: name, tool_calls, reasoning_content."""

    role: str
    text: str
    fields: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Message:
    """What one person wrote to others, before it is known whose voice is to be learned.

    `room` tells the conversations of one file apart. `answers` makes it a piece by itself, a mail, and says what it
    answers: its subject. `mine`: the export itself knows that its owner wrote it.
    """

    author: str
    text: str
    time_s: float | None = None  # since 1970; local times count as UTC
    room: str = ""
    answers: str | None = None
    mine: bool = False
    address: str = ""  # another name of the author
    receivers: tuple[str, ...] = ()  # where the message names them


@dataclass(frozen=True)
class Document:
    """A text or a conversation (`turns`), or one part of a text too long to be held at once.

    Parts of one text follow each other: `part` counts from 0, and only the final one has `last`.
    """

    source: str
    text: str = ""
    turns: tuple[Turn, ...] = ()
    tools: tuple[Mapping[str, Any], ...] = ()
    title: str | None = None
    time_s: float | None = None
    part: int = 0
    last: bool = True
    first_line: int = 1  # the line of its file on which the text begins
    record_line: int = 0  # the line on which all of it stands, where each line of the file is a record


@dataclass(frozen=True)
class Skipped:
    """A file, or a line of one ("notes/a.jsonl:12"), that was not read, and why."""

    where: str
    reason: str


@dataclass
class ReadReport:
    """The account of one reading; grows while reading goes on, by counts and by the first few examples only."""

    files: Counter[str] = field(default_factory=Counter)  # by the reader's name
    files_skipped: Counter[str] = field(default_factory=Counter)  # by reason
    skipped: list[Skipped] = field(default_factory=list)
    bad_lines: int = 0
    bad: list[Skipped] = field(default_factory=list)
    refused_chats: Counter[str] = field(default_factory=Counter)  # by reason
    cleaning: CleanReport = field(default_factory=CleanReport)
    damaged: list[Skipped] = field(default_factory=list)  # read up to there
    remarks: Counter[str] = field(default_factory=Counter)  # read, but with something to say: "read as Windows-1252"
    notes: list[str] = field(default_factory=list)  # what is to be said once, as it is
    documents: Counter[str] = field(default_factory=Counter)  # as read, by the reader's name
    characters: Counter[str] = field(default_factory=Counter)
    languages: Counter[str] = field(default_factory=Counter)  # documents by language
    people: Counter[str] = field(default_factory=Counter)  # messages by author
    own_messages: int = 0  # of the person whose voice is learned
    voice: str = ""
    voice_guessed: bool = False
    first_s: float | None = None  # the earliest and the latest time that a document states
    last_s: float | None = None

    def skip_file(self, name: str, reason: str) -> None:
        self.files_skipped[reason] += 1
        if len(self.skipped) < EXAMPLES_KEPT:
            self.skipped.append(Skipped(name, reason))

    def bad_line(self, name: str, line: int, reason: str) -> None:
        self.bad_lines += 1
        if len(self.bad) < EXAMPLES_KEPT:
            self.bad.append(Skipped(f"{name}:{line}", reason))

    def damage(self, name: str, reason: str) -> None:
        if len(self.damaged) < EXAMPLES_KEPT:
            self.damaged.append(Skipped(name, reason))

    def told(self) -> int:
        """Grows with everything that is reported."""
        counts = self.bad_lines + sum(self.files_skipped.values()) + sum(self.remarks.values())
        return counts + len(self.damaged)

    def count(self, reader: str, document: Document) -> None:
        if not document.part:
            self.documents[reader] += 1
            if document.time_s is not None:
                self.first_s = min(document.time_s, self.first_s or document.time_s)
                self.last_s = max(document.time_s, self.last_s or document.time_s)
        self.characters[reader] += len(document.text) + sum(len(turn.text) for turn in document.turns)

    def to_json(self) -> dict[str, Any]:
        return {
            "files": dict(self.files),
            "documents": dict(self.documents),
            "characters": dict(self.characters),
            "languages": dict(self.languages.most_common()),
            "people": [[self.shown(name), count] for name, count in self.people.most_common(EXAMPLES_KEPT)],
            "own_messages": self.own_messages,
            "voice": self.voice,
            "voice_guessed": self.voice_guessed,
            "first_s": self.first_s,
            "last_s": self.last_s,
            "files_skipped": dict(self.files_skipped),
            "skipped": [[skipped.where, skipped.reason] for skipped in self.skipped],
            "bad_lines": self.bad_lines,
            "damaged": [[damaged.where, damaged.reason] for damaged in self.damaged],
            "bad": [[bad.where, bad.reason] for bad in self.bad],
            "cleaning": self.cleaning.to_json(),
            "notices": self.notices(),
            "why_nothing": self.why_nothing(),
        }

    def shown(self, name: str) -> str:
        """Somebody whom the person's phone does not know is told by a number, and no account holds one."""
        return name if self.cleaning.kept else redacted(name, scan(name))

    def why_nothing(self) -> str:
        """One clause that explains an empty result."""
        if self.files_skipped:
            first = self.skipped[0]
            kinds = ", ".join(f"{count} {reason}" for reason, count in self.files_skipped.most_common(3))
            skipped = f"skipped {sum(self.files_skipped.values())} ({kinds}; first: {first.where})"
        else:
            skipped = ""
        if self.bad_lines:
            first = self.bad[0]
            lines = f"{self.bad_lines} unusable line{_s(self.bad_lines)} (first: {first.where}: {first.reason})"
        else:
            lines = ""
        chats = "; ".join(f"{count} conversations: {reason}" for reason, count in self.refused_chats.items())
        damaged = f"damaged: {self.damaged[0].where}: {self.damaged[0].reason}" if self.damaged else ""
        remarks = "; ".join(f"{remark}: {count}" for remark, count in self.remarks.items())
        clauses = (chats, lines, damaged, self.cleaning.why_nothing(), skipped, remarks, *self.notes)
        return "; ".join(clause for clause in clauses if clause) or "there are no files"

    def notices(self) -> list[str]:
        """What the person should see even when all went well, one line each."""
        lines = []
        if self.files_skipped:
            total = sum(self.files_skipped.values())
            shown = ", ".join(f"{s.where} ({s.reason})" for s in self.skipped[:5])
            lines.append(f"skipped {total} file{_s(total)}: {shown}{_more(total, 5)}")
        if self.bad_lines:
            shown = ", ".join(f"{b.where} ({b.reason})" for b in self.bad[:5])
            total = self.bad_lines
            lines.append(f"skipped {total} unusable line{_s(total)}: {shown}{_more(total, 5)}")
        if self.damaged:
            shown = ", ".join(f"{d.where} ({d.reason})" for d in self.damaged[:5])
            lines.append(f"damaged and read as far as possible: {shown}{_more(len(self.damaged), 5)}")
        for reason, count in self.refused_chats.items():
            lines.append(f"skipped {count} conversation{_s(count)}: {reason}")
        for remark, count in self.remarks.items():
            lines.append(f"{remark}: {count}")
        return lines + self.cleaning.notices() + self.notes


def _s(count: int) -> str:
    return "" if count == 1 else "s"


def _more(total: int, shown: int) -> str:
    return f" and {total - shown} more" if total > shown else ""
