"""Markdown: as plain text, without its front matter; the title comes from there or from the first heading.

The markup itself stays: it is how the person writes.
"""

from __future__ import annotations

import re
from collections.abc import Iterator

from pocketft.data.borders import PART_CHARS
from pocketft.data.documents import Document, ReadReport
from pocketft.data.encoding import open_text
from pocketft.data.readers.reader import Reader, Sample
from pocketft.data.readers.text import documents_of_text, remark_encoding

_NAMES = (".md", ".markdown", ".mdown", ".mkd", ".qmd")
_HEADING = re.compile(r"^#{1,6}[ \t]+(\S.*?)[ \t]*#*$", re.MULTILINE)
_MARKUP = re.compile(r"^(?:#{1,6}[ \t]+\S|```|[-*] \[[ xX]\] |!?\[[^\]\n]*\]\([^)\n]+\))", re.MULTILINE)
_MARKS = {"---": ("---", "..."), "+++": ("+++",)}
# A line of front matter: a key, an item, something indented, a comment, or nothing. A rule across the page ("---") is
# followed by prose instead.
_META_LINE = re.compile(r"\s*$|\s*#|\s*-(\s|$)|\s+\S|[\w\"'][\w .\"'/-]*\s*[:=](\s|$|\S)")


def _recognises(sample: Sample) -> bool:
    return (
        sample.path.suffix.lower() in _NAMES
        or front_matter_end(sample.head) > 0
        or len(_MARKUP.findall(sample.head)) >= 2
    )


def _read(sample: Sample, report: ReadReport) -> Iterator[Document]:
    skip = front_matter_end(sample.head)
    title = _title(sample.head[:skip], sample.head[skip:])
    with open_text(sample.path, sample.encoding) as (file, decoded):
        for _ in range(sample.head[:skip].count("\n")):
            file.readline()
        yield from documents_of_text(iter(lambda: file.read(PART_CHARS), ""), sample.name, title)
    remark_encoding(decoded, sample, report)


def front_matter_end(head: str) -> int:
    """How many characters of `head` are front matter: YAML between "---" lines or TOML between "+++" lines."""
    lines = head.split("\n")
    marks = _MARKS.get(lines[0].rstrip())
    if marks is None:
        return 0
    length = len(lines[0]) + 1
    for line in lines[1:-1]:
        length += len(line) + 1
        if line.rstrip() in marks:
            return length
        if not _META_LINE.match(line):
            return 0
    # The last line has no newline after it: the closing mark may still be there, with nothing behind it.
    return length + len(lines[-1]) if len(lines) > 1 and lines[-1].rstrip() in marks else 0


def _title(front_matter: str, body: str) -> str | None:
    named = re.search(r"^title\s*[:=]\s*(\S.*)$", front_matter, re.MULTILINE)
    if named:
        return named.group(1).strip().strip("\"'")
    heading = _HEADING.search(body)
    return heading.group(1) if heading else None


MARKDOWN = Reader("markdown", _recognises, _read)
