"""JSON of any size as a stream: containers on the way to what is wanted are walked, the rest is decoded piece by piece.

Knows JSON and nothing of exports. Holds one wanted value and a buffer; the decoding itself is the standard library's,
in C.
"""

from __future__ import annotations

import io
import json
import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import lru_cache
from typing import Any, TextIO

from pocketft.data.documents import ReadReport
from pocketft.data.encoding import open_text
from pocketft.data.readers.reader import Sample

CHUNK_CHARS = 1 << 16
MAX_VALUE_CHARS = 16 << 20  # a longer value is no message and no conversation
ITEM = "*"  # in a path: any element of an array
MAX_KEYS = 200  # that a shape remembers

Path = tuple[str, ...]

_decode = json.JSONDecoder(strict=False).raw_decode
_space = re.compile(r"[ \t\n\r]*").match


class DamagedJSON(Exception):
    """Where and why the stream ends before its time."""


@dataclass(frozen=True)
class Shape:
    """What the beginning of a JSON file shows: its `kind` ("object", "array" or ""), and the keys of the object, or of
    the array's first element."""

    kind: str
    keys: frozenset[str] = frozenset()


def values(
    sample: Sample, report: ReadReport, wanted: Callable[[Path], bool], enter: Callable[[Path], bool]
) -> Iterator[tuple[Path, Any]]:
    """(path, value) of all wanted values, in order. Damage goes to the report and ends the stream."""
    with open_text(sample.file, sample.encoding) as (file, _):
        try:
            for path, value in walk(file, enter):
                if wanted(path):
                    yield path, value
        except DamagedJSON as damage:
            report.damage(sample.name, str(damage))


def walk(file: TextIO, enter: Callable[[Path], bool]) -> Iterator[tuple[Path, Any]]:
    """Every value by its path; `enter` says whether the container at a path is walked or decoded whole.

    Raises DamagedJSON.
    """
    buffer = _Buffer(file)
    try:
        yield from _walk(buffer, (), enter)
    except RecursionError:
        raise DamagedJSON("nested too deeply") from None


@lru_cache(maxsize=8)
def shape(head: str) -> Shape:
    """Of a file that begins with `head`, which may end anywhere."""
    first = head.lstrip()[:1]
    if first not in ("{", "["):
        return Shape("")
    depth = 1 if first == "{" else 2
    seen: list[Path] = []

    def enter(path: Path) -> bool:
        if len(seen) < MAX_KEYS:
            seen.append(path)
        return len(path) < depth

    try:
        for _ in walk(io.StringIO(head), enter):
            pass
    except DamagedJSON:
        pass
    keys = frozenset(path[-1] for path in seen if len(path) == depth)
    if first == "{":
        return Shape("object", keys) if keys or re.match(r"\s*\{\s*\}", head) else Shape("")
    return Shape("array", keys) if seen[1:] or re.match(r"\s*\[\s*\]", head) else Shape("")


class _Buffer:
    """What is read and not used up."""

    def __init__(self, file: TextIO) -> None:
        self._file = file
        self._text = ""
        self._at = 0
        self._before = 0
        self._ended = False

    def next_char(self) -> str:
        """The next character that is not white space, not used up; nothing at the end."""
        while True:
            match = _space(self._text, self._at)
            assert match is not None
            self._at = match.end()
            if self._at < len(self._text):
                return self._text[self._at]
            if self._ended:
                return ""
            self._more(CHUNK_CHARS)

    def skip(self) -> None:
        self._at += 1

    def value(self) -> Any:
        self.next_char()
        size = CHUNK_CHARS
        while True:
            try:
                value, end = _decode(self._text, self._at)
                # A number at the buffer's end may go on.
                if end < len(self._text) or self._ended or self._text[end - 1] in '"]}':
                    self._at = end
                    return value
            except ValueError:
                if self._ended:
                    raise self.damage("cut off or damaged") from None
                if len(self._text) - self._at > MAX_VALUE_CHARS:
                    raise self.damage(f"a value of more than {MAX_VALUE_CHARS >> 20} million characters") from None
            self._more(size)
            size *= 2

    def damage(self, what: str) -> DamagedJSON:
        return DamagedJSON(f"{what} at character {self._before + self._at:,}")

    def _more(self, size: int) -> None:
        piece = self._file.read(size)
        self._ended = not piece
        self._text = self._text[self._at :] + piece
        self._before += self._at
        self._at = 0


def _walk(buffer: _Buffer, path: Path, enter: Callable[[Path], bool]) -> Iterator[tuple[Path, Any]]:
    first = buffer.next_char()
    goes_in = enter(path)
    if first not in ("{", "[") or not goes_in:
        yield path, buffer.value()
        return
    buffer.skip()
    end = "}" if first == "{" else "]"
    if buffer.next_char() == end:
        buffer.skip()
        return
    item = (*path, ITEM)
    while True:
        if end == "}":
            key = buffer.value() if buffer.next_char() == '"' else None
            if key is None or buffer.next_char() != ":":
                raise buffer.damage("cut off or damaged")
            buffer.skip()
            item = (*path, key)
        yield from _walk(buffer, item, enter)
        after = buffer.next_char()
        if after not in (",", end) or not after:
            raise buffer.damage("cut off or damaged")
        buffer.skip()
        if after == end:
            return
