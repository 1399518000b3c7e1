"""How these tests read: a file or a folder, to documents and the account."""

from __future__ import annotations

from pathlib import Path

from pocketft.data.documents import Document, ReadReport
from pocketft.data.readers import read_documents
from pocketft.data.sources import find_files


def read(*paths: Path, me: str | None = None, column: str | None = None) -> tuple[list[Document], ReadReport]:
    report = ReadReport()
    return list(read_documents(find_files(paths, report), report, me=me, column=column)), report


def read_one(folder: Path, name: str, content: bytes, me: str | None = None) -> tuple[list[Document], ReadReport]:
    path = folder / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content)
    return read(path, me=me)


def said(document: Document) -> list[tuple[str, str]]:
    return [(turn.role, turn.text) for turn in document.turns]


def only(documents: list[Document]) -> Document:
    assert len(documents) == 1
    return documents[0]
