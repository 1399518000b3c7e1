"""What readers hand on: documents, the turns of a conversation, and the account of what could not be read.

Knows nothing of files' formats or of tokens.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

EXAMPLES_KEPT = 20  # an account stays small however many files are bad


@dataclass(frozen=True)
class Turn:
    """One message. `fields` carries what else the model's template may know: name, tool_calls, reasoning_content."""

    role: str
    text: str
    fields: Mapping[str, Any] = field(default_factory=dict)


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
    part: int = 0
    last: bool = True


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
    remarks: Counter[str] = field(default_factory=Counter)  # read, but with something to say: "read as Windows-1252"

    def skip_file(self, name: str, reason: str) -> None:
        self.files_skipped[reason] += 1
        if len(self.skipped) < EXAMPLES_KEPT:
            self.skipped.append(Skipped(name, reason))

    def bad_line(self, name: str, line: int, reason: str) -> None:
        self.bad_lines += 1
        if len(self.bad) < EXAMPLES_KEPT:
            self.bad.append(Skipped(f"{name}:{line}", reason))

    def to_json(self) -> dict[str, Any]:
        return {
            "files": dict(self.files),
            "files_skipped": dict(self.files_skipped),
            "skipped": [[skipped.where, skipped.reason] for skipped in self.skipped],
            "bad_lines": self.bad_lines,
            "bad": [[bad.where, bad.reason] for bad in self.bad],
            "notices": self.notices(),
            "why_nothing": self.why_nothing(),
        }

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
        return "; ".join(clause for clause in (chats, lines, skipped) if clause) or "there are no files"

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
        for reason, count in self.refused_chats.items():
            lines.append(f"skipped {count} conversation{_s(count)}: {reason}")
        for remark, count in self.remarks.items():
            lines.append(f"{remark}: {count}")
        return lines


def _s(count: int) -> str:
    return "" if count == 1 else "s"


def _more(total: int, shown: int) -> str:
    return f" and {total - shown} more" if total > shown else ""
