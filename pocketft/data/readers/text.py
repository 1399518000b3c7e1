"""Plain text: one file is one document, however long; what no other reader recognises is read as this."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from pocketft.data.borders import PART_CHARS, text_parts
from pocketft.data.documents import Document, ReadReport
from pocketft.data.encoding import Decoded, open_text
from pocketft.data.readers.reader import Reader, Sample


def _read(sample: Sample, report: ReadReport) -> Iterator[Document]:
    with open_text(sample.file, sample.encoding) as (file, decoded):
        yield from documents_of_text(iter(lambda: file.read(PART_CHARS), ""), sample.name)
    remark_encoding(decoded, sample, report)


def documents_of_text(
    pieces: Iterable[str], source: str, title: str | None = None, first_line: int = 1
) -> Iterator[Document]:
    """One text as one document, in as many parts as it takes. `first_line`: the line of the file on which it begins."""
    for number, (part, last) in enumerate(text_parts(pieces)):
        yield Document(source, part, title=title, part=number, last=last, first_line=first_line)


def remark_encoding(decoded: Decoded, sample: Sample, report: ReadReport) -> None:
    if decoded.other_bytes:
        kind = "Windows-1252" if sample.encoding.startswith("utf-8") else "damaged characters left out"
        report.remarks[f"files with bytes that are not {sample.encoding.upper()}, read as {kind}"] += 1


TEXT = Reader("text", lambda sample: True, _read)
