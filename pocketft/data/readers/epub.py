"""EPUB books: one document, its chapters in reading order."""

from __future__ import annotations

import posixpath
import zipfile
from collections.abc import Iterator
from urllib.parse import unquote
from xml.etree import ElementTree

from pocketft.data.archives import MAGIC, document_kind, is_too_dense, opened_document
from pocketft.data.documents import Document, ReadReport
from pocketft.data.readers.html import text_of
from pocketft.data.readers.reader import Reader, Sample
from pocketft.data.readers.text import documents_of_text

MAX_CHAPTER_BYTES = 32 << 20
_CONTAINER = "META-INF/container.xml"


def _recognises(sample: Sample) -> bool:
    return sample.start.startswith(MAGIC) and document_kind(sample.file) == "EPUB book"


def _read(sample: Sample, report: ReadReport) -> Iterator[Document]:
    with opened_document(sample.file, "EPUB book", report) as archive:
        title, chapters = _contents(archive)
        texts = (text for name in chapters if (text := _chapter(archive, name, sample, report)))
        yield from documents_of_text(texts, sample.name, title)


def _contents(archive: zipfile.ZipFile) -> tuple[str | None, list[str]]:
    """The title, and the members that are chapters, in order."""
    container = ElementTree.fromstring(_bytes(archive, _CONTAINER))
    root = next((element.get("full-path") or "" for element in container.iter() if _is(element, "rootfile")), "")
    package = ElementTree.fromstring(_bytes(archive, root))
    title = next((element.text for element in package.iter() if _is(element, "title") and element.text), None)
    files = {
        element.get("id"): posixpath.normpath(
            posixpath.join(posixpath.dirname(root), unquote(element.get("href") or ""))
        )
        for element in package.iter()
        if _is(element, "item") and "html" in (element.get("media-type") or "")
    }
    order = [element.get("idref") for element in package.iter() if _is(element, "itemref")]
    return title, [files[name] for name in order if name in files]


def _chapter(archive: zipfile.ZipFile, name: str, sample: Sample, report: ReadReport) -> str:
    try:
        page = _bytes(archive, name)
    except KeyError:
        report.damage(sample.name, f"a chapter is missing: {name}")
        return ""
    text = text_of(page.decode("utf-8", "replace"))
    return f"{text}\n\n" if text else ""


def _bytes(archive: zipfile.ZipFile, name: str) -> bytes:
    info = archive.getinfo(name)
    if is_too_dense(info) or info.file_size > MAX_CHAPTER_BYTES:
        raise ValueError(f"{name} is larger than a chapter can be")
    return archive.read(info)


def _is(element: ElementTree.Element, name: str) -> bool:
    return isinstance(element.tag, str) and element.tag.rpartition("}")[2] == name


EPUB = Reader("epub", _recognises, _read)
