"""Bytes to characters: UTF-8, UTF-16 and Windows-1252, told apart by their bytes, or a reason why not.

Deliberately small: these three cover what notes apps, mail programs and Windows editors write. Anything else is named
as unknown rather than turned into wrong letters.
"""

from __future__ import annotations

import codecs
import io
import re
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TextIO

from pocketft.data.sources import SourceFile

_BOMS = (
    (codecs.BOM_UTF8, "utf-8-sig"),
    (codecs.BOM_UTF32_LE, "utf-32"),  # before UTF-16: its mark begins with the same two bytes
    (codecs.BOM_UTF32_BE, "utf-32"),
    (codecs.BOM_UTF16_LE, "utf-16"),
    (codecs.BOM_UTF16_BE, "utf-16"),
)

_MAGIC = (
    (b"%PDF-", "PDF document"),
    (b"PK\x03\x04", "zip archive or office document"),
    (b"\x1f\x8b", "gzip archive"),
    (b"\x89PNG", "PNG image"),
    (b"\xff\xd8\xff", "JPEG image"),
    (b"GIF8", "GIF image"),
    (b"RIFF", "media file"),
    (b"ID3", "audio file"),
    (b"OggS", "audio file"),
    (b"SQLite format 3", "SQLite database"),
    (b"\xd0\xcf\x11\xe0", "old office document"),
    (b"{\\rtf", "rich text document"),
    (b"GGUF", "GGUF model"),
    (b"\x7fELF", "program"),
    (b"MZ\x90", "program"),
)

_ON_ERROR = "pocketft-decode"

_CONTROL = re.compile(rb"[\x00-\x08\x0e-\x1a\x1c-\x1f\x7f]")
_LETTERS = re.compile(rb"[A-Za-z\x80-\xff]")
_HIGH = re.compile(rb"[\x80-\xff]")


@dataclass(frozen=True)
class NotText:
    """Why a file is not read as text."""

    reason: str


@dataclass
class Decoded:
    """How one open file came out; filled while it is read."""

    other_bytes: int = 0  # bytes that were not UTF-8 and were taken as Windows-1252


def detect(head: bytes) -> str | NotText:
    """The encoding of a file whose first bytes are `head`.

    "utf-8" also stands for files with Windows-1252 bytes in them: `open_text` decodes those byte by byte, so a letter
    far beyond `head` is read rightly too.
    """
    for mark, encoding in _BOMS:
        if head.startswith(mark):
            return encoding
    for magic, kind in _MAGIC:
        if head.startswith(magic):
            return NotText(f"binary file ({kind})")
    if utf16 := _bare_utf16(head):
        return utf16
    if len(_CONTROL.findall(head)) > len(head) // 200:
        return NotText("binary file")
    if not _is_utf8(head):
        letters, high = len(_LETTERS.findall(head)), len(_HIGH.findall(head))
        # Western European text has an accent on at most every sixth letter; others are high bytes throughout.
        if high * 3 > letters:
            return NotText("unknown encoding (not UTF-8, UTF-16 or Windows-1252); save it as UTF-8")
    return "utf-8"


@contextmanager
def open_text(file: SourceFile, encoding: str) -> Iterator[tuple[TextIO, Decoded]]:
    """Open for reading in pieces: newlines become "\\n", no byte raises."""
    decoded = Decoded()

    def take_as_windows_1252(error: UnicodeError) -> tuple[str, int]:
        assert isinstance(error, UnicodeDecodeError)
        data = error.object[error.start : error.end]
        decoded.other_bytes += len(data)
        taken = data.decode("cp1252", "replace") if error.encoding == "utf-8" else "\N{REPLACEMENT CHARACTER}"
        return taken, error.end

    codecs.register_error(_ON_ERROR, take_as_windows_1252)  # replaces that of the file before
    with io.TextIOWrapper(file.open(), encoding=encoding, errors=_ON_ERROR, newline=None) as text:
        yield text, decoded


def without_surrogates(text: str) -> str:
    """JSON may hold half of a character ("\\ud83d"); no tokenizer takes it."""
    try:
        text.encode()
    except UnicodeEncodeError:
        return text.encode("utf-16", "surrogatepass").decode("utf-16", "replace")
    return text


def _is_utf8(head: bytes) -> bool:
    try:
        codecs.getincrementaldecoder("utf-8")().decode(head, final=False)
    except UnicodeDecodeError:
        return False
    return True


def _bare_utf16(head: bytes) -> str | None:
    """UTF-16 without a mark, as far as it is mostly Latin: every other byte is 0."""
    pairs = len(head) // 2
    if pairs < 4:
        return None
    even, odd = head[0 : 2 * pairs : 2].count(0), head[1 : 2 * pairs : 2].count(0)
    if odd > 0.7 * pairs and even < 0.02 * pairs:
        return "utf-16-le"
    if even > 0.7 * pairs and odd < 0.02 * pairs:
        return "utf-16-be"
    return None
