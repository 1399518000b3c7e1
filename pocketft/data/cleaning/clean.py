"""Documents made fit to learn from: repeated ones and boilerplate left out, secrets replaced, an account kept.

Streams: holds a quarter of a million characters at most, so a longer text is judged in sections of that size. Only the
sections that a new export adds to an old one are then learned a second time.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import replace
from typing import Any

from pocketft.data.borders import PART_CHARS, part_end
from pocketft.data.cleaning.account import CleanReport
from pocketft.data.cleaning.boilerplate import Boilerplate
from pocketft.data.cleaning.duplicates import Duplicates
from pocketft.data.documents import Document, Turn
from pocketft.data.layout import DataSettings
from pocketft.data.secrets import open_armour, redacted, scan
from pocketft.errors import DataError

SECTION_CHARS = 8 * PART_CHARS


def clean(documents: Iterable[Document], settings: DataSettings, report: CleanReport) -> Iterator[Document]:
    """Raises DataError behind the last document where secrets were found that are to be refused."""
    report.kept = settings.secrets == "keep"
    cleaner = _Cleaner(settings, report)
    section: list[Document] = []
    chars = 0
    for document in documents:
        if document.part == 0:  # a damaged file may have broken off inside a text
            yield from cleaner.broken_off(section)
            section, chars = [], 0
        if document.turns:
            yield from cleaner.chat(document)
            continue
        section.append(document)
        chars += len(document.text)
        if document.last or (chars >= SECTION_CHARS and not open_armour(document.text)):
            yield from cleaner.section(section)
            section, chars = [], 0
    yield from cleaner.broken_off(section)
    if settings.secrets == "refuse" and report.secrets:
        raise DataError(
            f"the text holds {report.what_was_found()}; take them out, or let them be replaced with --secrets redact"
        )


class _Cleaner:
    def __init__(self, settings: DataSettings, report: CleanReport) -> None:
        self._settings = settings
        self._report = report
        self._duplicates = Duplicates()
        self._boilerplate = Boilerplate()
        self._waiting: Document | None = None  # a part is handed on once it is known whether another follows
        self._parts = 0  # handed on of the text that is being read
        self._line = 1

    def section(self, parts: list[Document]) -> Iterator[Document]:
        """The next parts of a text, as many as are judged together."""
        first, last = parts[0], parts[-1].last
        if first.part == 0:
            self._waiting, self._parts, self._line = None, 0, first.first_line
        written = first.text if len(parts) == 1 else "".join(part.text for part in parts)
        text, lines = self._without_boilerplate(first, written, last)
        if self._fit(text, whole=first.part == 0 and last):
            text = self._without_secrets(text, first, lines)
            if text is first.text and last and first.part == 0:  # most documents: whole, short and as they were
                title = self._quietly(first.title)
                yield first if title == first.title else replace(first, title=title)
                return
            if not self._parts and self._waiting is None:
                text = text.lstrip("\r\n")
            for piece in _pieces(text.rstrip() if last else text):
                yield from self._hand_on(replace(first, text=piece, title=self._quietly(first.title)))
        self._line += written.count("\n")
        if last and self._waiting is not None:
            yield replace(self._waiting, last=True)
            self._waiting = None

    def broken_off(self, parts: list[Document]) -> Iterator[Document]:
        """The end of a text whose last part never came."""
        if parts:
            yield from self.section([*parts[:-1], replace(parts[-1], last=True)])
        elif self._waiting is not None:
            yield replace(self._waiting, last=True)
        self._waiting = None

    def chat(self, document: Document) -> Iterator[Document]:
        if self._settings.deduplicate:
            said = [(turn.role, f"{turn.text}\0{sorted(turn.fields.items())}") for turn in document.turns]
            if self._duplicates.judge_turns(said) != "new":
                self._report.duplicates += 1
                return
        place = f"{document.source}:{document.record_line}" if document.record_line else document.source
        turns = tuple(
            Turn(turn.role, self._replaced(turn.text, place), self._inside(turn.fields, place))
            for turn in document.turns
        )
        tools = tuple(self._inside(tool, place) for tool in document.tools)
        yield replace(document, turns=turns, tools=tools, title=self._quietly(document.title))

    def _without_boilerplate(self, document: Document, text: str, last: bool) -> tuple[str, list[int] | None]:
        """The text and, where lines are gone, the numbers of those that stayed."""
        if not self._settings.drop_boilerplate:
            return text, None
        lines = text.split("\n")
        kept = self._boilerplate.lines_to_keep(document.source, lines, begins=document.part == 0, ends=last)
        if kept is None:
            return text, None
        self._report.boilerplate_lines += len(lines) - len(kept)
        return "\n".join(lines[index] for index in kept), kept

    def _fit(self, text: str, whole: bool) -> bool:
        if whole and len(text.strip()) < max(1, self._settings.min_chars):
            self._report.too_short += 1
            return False
        if self._settings.deduplicate:
            match self._duplicates.judge_text(text):
                case "same":
                    self._report.duplicates += 1
                    return False
                case "alike":
                    self._report.near_duplicates += 1
                    return False
        return True

    def _without_secrets(self, text: str, document: Document, lines: list[int] | None) -> str:
        findings = scan(text)
        line = at = 0
        for finding in findings:
            line += text.count("\n", at, finding.start)
            at = finding.start
            number = document.record_line or self._line + (lines[line] if lines else line)
            self._report.found(finding.kind, f"{document.source}:{number}")
        return text if self._settings.secrets == "keep" else redacted(text, findings)

    def _replaced(self, text: str, place: str) -> str:
        findings = scan(text)
        for finding in findings:
            self._report.found(finding.kind, place)
        return text if self._settings.secrets == "keep" else redacted(text, findings)

    def _inside(self, value: Any, place: str) -> Any:
        """As `_replaced`, for every text inside a JSON value."""
        if isinstance(value, str):
            return self._replaced(value, place)
        if isinstance(value, Mapping):
            return {key: self._inside(item, place) for key, item in value.items()}
        if isinstance(value, (list, tuple)):
            return [self._inside(item, place) for item in value]
        return value

    def _quietly(self, title: str | None) -> str | None:
        """A title is not learned, so what it holds is not counted; it is shown, so it holds no secret."""
        return title if title is None or self._settings.secrets == "keep" else redacted(title, scan(title))

    def _hand_on(self, part: Document) -> Iterator[Document]:
        if part.text.isspace():
            return
        if self._waiting is not None:
            yield self._waiting
        self._waiting = replace(part, part=self._parts, last=False)
        self._parts += 1


def _pieces(text: str) -> Iterator[str]:
    """A section cut into parts again: a placeholder is shorter than what it stands for."""
    at = 0
    while at < len(text):
        end = at + part_end(text[at : at + PART_CHARS + 1], PART_CHARS)
        yield text[at:end]
        at = end
