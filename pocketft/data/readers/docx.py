"""Word documents (.docx): paragraphs, lists and tables as they read; deleted text, headers and footnotes left out."""

from __future__ import annotations

import zipfile
import zlib
from collections.abc import Iterator
from typing import IO
from xml.etree import ElementTree

from pocketft.data.archives import MAGIC, MAX_RATIO, RATIO_COUNTS_FROM_BYTES, document_kind
from pocketft.data.documents import Document, ReadReport
from pocketft.data.readers.reader import Reader, Sample
from pocketft.data.readers.text import documents_of_text

_W = "{http://schemas.openxmlformats.org/wordprocessingml/2006/main}"
_STRICT = "{http://purl.oclc.org/ooxml/wordprocessingml/main}"
_BODY = "word/document.xml"


def _recognises(sample: Sample) -> bool | str:
    if not sample.start.startswith(MAGIC):
        return False
    kind = document_kind(sample.file)
    if kind is None or kind == "EPUB book":
        return False
    return True if kind == "Word document" else kind


def _read(sample: Sample, report: ReadReport) -> Iterator[Document]:
    with sample.file.open_seekable() as stream:
        try:
            archive = zipfile.ZipFile(stream)
            info = archive.getinfo(_BODY)
            if info.file_size > RATIO_COUNTS_FROM_BYTES and info.file_size > MAX_RATIO * max(1, info.compress_size):
                report.skip_file(sample.name, f"file compressed more than {MAX_RATIO} times, as no text is")
                return
            with archive.open(info) as xml:
                yield from documents_of_text(_paragraphs(xml), sample.name)
        except (
            zipfile.BadZipFile,
            zlib.error,
            EOFError,
            KeyError,
            NotImplementedError,
            RuntimeError,
            ValueError,
        ) as error:
            report.damage(sample.name, f"damaged Word document: {error}")
        except ElementTree.ParseError as error:
            report.damage(sample.name, f"damaged Word document: {error}")


def _paragraphs(xml: IO[bytes]) -> Iterator[str]:
    line: list[str] = []
    deleted = 0
    for event, element in ElementTree.iterparse(xml, events=("start", "end")):
        tag = element.tag.replace(_STRICT, _W) if isinstance(element.tag, str) else ""
        if tag == f"{_W}del":
            deleted += 1 if event == "start" else -1
        if event == "start":
            continue
        if tag == f"{_W}t" and not deleted:
            line.append(element.text or "")
        elif tag == f"{_W}tab":
            line.append("\t")
        elif tag in (f"{_W}br", f"{_W}cr"):
            line.append("\n")
        elif tag == f"{_W}numPr":
            line.append("- ")
        elif tag == f"{_W}tc":
            line.append("\t")
        elif tag == f"{_W}tr" or tag == f"{_W}p":
            words = "".join(line).strip("\n")
            is_cell = tag == f"{_W}p" and words.strip() == ""
            line = []
            if not is_cell:
                yield f"{words}\n\n" if not words.startswith("- ") else f"{words}\n"
            element.clear()


DOCX = Reader("docx", _recognises, _read)
