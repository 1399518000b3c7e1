"""Org files: their text without drawers, planning lines and settings; the title comes from `#+TITLE:`."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator

from pocketft.data.documents import Document, ReadReport
from pocketft.data.encoding import open_text
from pocketft.data.readers.reader import Reader, Sample
from pocketft.data.readers.text import documents_of_text, remark_encoding

MAX_LINE_CHARS = 1 << 16
_KEYWORD = re.compile(r"^[ \t]*#\+(?!begin_|end_)[A-Za-z_]+(?:\[[^\]\n]*\])?:", re.IGNORECASE)
_TITLE = re.compile(r"^[ \t]*#\+TITLE:[ \t]*(\S.*?)[ \t]*$", re.IGNORECASE | re.MULTILINE)
_SIGNS = re.compile(r"^[ \t]*(?:#\+(?:TITLE|AUTHOR|STARTUP|OPTIONS|FILETAGS|BEGIN_SRC)\b|:PROPERTIES:[ \t]*$)",
                    re.IGNORECASE | re.MULTILINE)  # fmt: skip
_DRAWER = re.compile(r"^[ \t]*:(?:PROPERTIES|LOGBOOK|CLOCK):[ \t]*$", re.IGNORECASE)
_DRAWER_LINE = re.compile(r"^[ \t]*(?::[^:\n]+:|CLOCK:|- )")
_END = re.compile(r"^[ \t]*:END:[ \t]*$", re.IGNORECASE)
_PLANNING = re.compile(r"^[ \t]*(?:SCHEDULED|DEADLINE|CLOSED):[ \t]*[<\[]")
_LINK = re.compile(r"\[\[(?:[^\]\[\n]*)\]\[([^\]\[\n]+)\]\]")
_FILE_LINK = re.compile(r"\[\[(?:file:|attachment:|\./)[^\]\n]*\]\]")


def _recognises(sample: Sample) -> bool:
    return sample.suffix == ".org" or bool(
        _SIGNS.search(sample.head) and re.search(r"^\*+ \S", sample.head, re.MULTILINE)
    )


def _read(sample: Sample, report: ReadReport) -> Iterator[Document]:
    title = _TITLE.search(sample.head)
    heading = title or re.search(r"^\*+ (\S.*)$", sample.head, re.MULTILINE)
    with open_text(sample.file, sample.encoding) as (file, decoded):
        lines = _lines(iter(lambda: file.readline(MAX_LINE_CHARS), ""))
        yield from documents_of_text(lines, sample.name, heading[1] if heading else None)
    remark_encoding(decoded, sample, report)


def _lines(lines: Iterable[str]) -> Iterator[str]:
    in_drawer = False
    for line in lines:
        if in_drawer:
            in_drawer = not _END.match(line) and bool(_DRAWER_LINE.match(line))
            if in_drawer or _END.match(line):
                continue
        if _DRAWER.match(line):
            in_drawer = True
        elif not (_KEYWORD.match(line) or _PLANNING.match(line)):
            yield _FILE_LINK.sub("", _LINK.sub(r"\1", line)) if "[[" in line else line


ORG = Reader("org", _recognises, _read)
