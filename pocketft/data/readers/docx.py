"""Word documents (.docx): paragraphs, lists and tables as they read; deleted text, headers and footnotes left out."""

from __future__ import annotations

from collections.abc import Iterator
from typing import IO
from xml.etree import ElementTree

from pocketft.data.archives import MAGIC, TOO_DENSE, document_kind, is_too_dense, opened_document
from pocketft.data.documents import Document, ReadReport
from pocketft.data.readers.reader import Reader, Sample
from pocketft.data.readers.text import documents_of_text

_NAMESPACES = (
    "{http://schemas.openxmlformats.org/wordprocessingml/2006/main",
    "{http://purl.oclc.org/ooxml/wordprocessingml/main",
)
_SIGNS = {"tab": "\t", "br": "\n", "cr": "\n", "numPr": "- "}
_BODY = "word/document.xml"


def _recognises(sample: Sample) -> bool | str:
    if not sample.start.startswith(MAGIC):
        return False
    kind = document_kind(sample.file)
    if kind is None or kind == "EPUB book":
        return False
    return True if kind == "Word document" else kind


def _read(sample: Sample, report: ReadReport) -> Iterator[Document]:
    with opened_document(sample.file, "Word document", report) as archive:
        info = archive.getinfo(_BODY)
        if is_too_dense(info):
            report.skip_file(sample.name, TOO_DENSE)
            return
        with archive.open(info) as xml:
            yield from documents_of_text(_paragraphs(xml), sample.name)


def _paragraphs(xml: IO[bytes]) -> Iterator[str]:
    """One paragraph, list item or row of a table after the other."""
    line: list[str] = []
    depth = {"del": 0, "tc": 0}
    for event, element in ElementTree.iterparse(xml, events=("start", "end")):
        tag = _name(element)
        if tag in depth:
            depth[tag] += 1 if event == "start" else -1
        if event == "start":
            continue
        if tag == "t" and not depth["del"]:
            line.append(element.text or "")
        elif tag in _SIGNS:
            line.append(_SIGNS[tag])
        elif tag == "p" and depth["tc"]:
            line.append(" ")
        elif tag == "tc" and not depth["tc"]:
            line = ["".join(line).rstrip(), "\t"]
        elif tag in ("p", "tr"):
            words, line = "".join(line).strip("\n\t"), []
            if words.strip():
                yield f"{words}\n" if words.startswith("- ") or tag == "tr" else f"{words}\n\n"
        if tag in ("p", "tr"):
            element.clear()


def _name(element: ElementTree.Element) -> str:
    namespace, _, name = element.tag.rpartition("}")
    return name if namespace in _NAMESPACES else ""


DOCX = Reader("docx", _recognises, _read)
