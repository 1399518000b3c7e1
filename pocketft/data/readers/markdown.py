"""Markdown, and the exports of Obsidian and Notion: without front matter, attachments and the links' machinery.

The markup itself stays: it is how the person writes. The title comes from the front matter or from the first heading.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import TextIO

from pocketft.data.documents import Document, ReadReport
from pocketft.data.encoding import open_text
from pocketft.data.readers.reader import Reader, Sample
from pocketft.data.readers.text import documents_of_text, remark_encoding

MAX_LINE_CHARS = 1 << 16
MAX_COMMENT_CHARS = 1 << 20  # what has no end by then is no comment
_NAMES = (".md", ".markdown", ".mdown", ".mkd", ".qmd")
_HEADING = re.compile(r"^#{1,6}[ \t]+(\S.*?)[ \t]*#*$", re.MULTILINE)
_MARKUP = re.compile(r"^(?:#{1,6}[ \t]+\S|```|[-*] \[[ xX]\] |!?\[[^\]\n]*\]\([^)\n]+\))", re.MULTILINE)
_MARKS = {"---": ("---", "..."), "+++": ("+++",)}
# A line of front matter: a key, an item, something indented, a comment, or nothing. A rule across the page ("---") is
# followed by prose instead.
_META_LINE = re.compile(r"\s*$|\s*#|\s*-(\s|$)|\s+\S|[\w\"'][\w .\"'/-]*\s*[:=](\s|$|\S)")

_FENCE = re.compile(r"[ \t]*(?:```|~~~)")
_EMBED = re.compile(r"!\[\[[^\]\n]*\]\]|!\[[^\]\n]*\]\([^)\n]*\)")  # pictures and other attachments
_WIKI = re.compile(r"\[\[([^\]|\n]*)(?:\|([^\]\n]*))?\]\]")
_LOCAL = re.compile(r"\[([^\]\n]+)\]\((?!https?:|mailto:|#)[^)\n]*\)")  # a page or file of the same vault
_BLOCK_ID = re.compile(r"[ \t]+\^[A-Za-z0-9-]+[ \t]*$", re.MULTILINE)
_COMMENT = re.compile(r"%%.*?%%")
_COMMENT_MARK = re.compile(r"\s*%%|.*(?<!\d)%%\s*$")  # of several lines; "100%% done" is none
_NOTION_ID = re.compile(r"\b[0-9a-f]{32}\b")
_NOTION_PROPERTY = re.compile(r"[A-Z][\w /()&-]{0,40}: \S.*$")


def _recognises(sample: Sample) -> bool:
    return sample.suffix in _NAMES or front_matter_end(sample.head) > 0 or len(_MARKUP.findall(sample.head)) >= 2


def _read(sample: Sample, report: ReadReport) -> Iterator[Document]:
    skip = front_matter_end(sample.head)
    title = _title(sample.head[:skip], sample.head[skip:])
    with open_text(sample.file, sample.encoding) as (file, decoded):
        skipped_lines = sample.head[:skip].count("\n")
        for _ in range(skipped_lines):
            file.readline()
        properties = _NOTION_ID.search(sample.name) is not None
        yield from documents_of_text(_lines(file, notion=properties), sample.name, title, skipped_lines + 1)
    remark_encoding(decoded, sample, report)


def _lines(file: TextIO, *, notion: bool) -> Iterator[str]:
    """Line by line, for what stands between fences is code and stays as it is."""
    for number, (line, code) in enumerate(_uncommented(_with_code(file)), start=1):
        if not code:
            if notion and 2 < number < 20:  # a page's properties stand between its heading and its text
                if _NOTION_PROPERTY.match(line):
                    continue
                notion = not line.strip()
            bare = _plain(line)
            if bare is not line and not bare.strip():
                continue  # nothing but an attachment
            line = bare
        yield line


def _with_code(file: TextIO) -> Iterator[tuple[str, bool]]:
    """Each line, and whether it stands between fences or is one."""
    fenced = False
    while line := file.readline(MAX_LINE_CHARS):
        fence = _FENCE.match(line) is not None
        yield line, fenced or fence
        fenced ^= fence


def _uncommented(lines: Iterator[tuple[str, bool]]) -> Iterator[tuple[str, bool]]:
    """Without comments, in a line or over several; a mark that nothing closes was none, and all behind it is text."""
    held: list[tuple[str, bool]] = []
    chars = 0
    for line, code in lines:
        if "%%" in line and not code:
            line = _COMMENT.sub("", line)
            if _COMMENT_MARK.match(line):
                held, chars = ([] if held else [(line, code)]), 0
                continue
        if not held:
            yield line, code
            continue
        held.append((line, code))
        chars += len(line)
        if chars > MAX_COMMENT_CHARS:
            yield from held
            held = []
    yield from held


def _plain(line: str) -> str:
    if "](" in line or "[[" in line:
        changed = _LOCAL.sub(r"\1", _WIKI.sub(_page, _EMBED.sub("", line)))
        line = line if changed == line else changed
    if " ^" in line:
        line = _BLOCK_ID.sub("", line)
    return line


def _page(match: re.Match[str]) -> str:
    """What a wiki link shows: its alias, or the page's name."""
    if match[2]:
        return match[2]
    page, _, heading = match[1].partition("#")
    return page.rpartition("/")[2] or heading


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
