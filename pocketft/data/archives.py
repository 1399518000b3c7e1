"""Zip archives, read in place: their members are files like others, as far as they stay within limits.

Knows archives as containers; what a member holds is the readers' business. Office documents are archives too, and are
left whole.
"""

from __future__ import annotations

import tempfile
import zipfile
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO
from xml.etree.ElementTree import ParseError

from pocketft.data.documents import ReadReport
from pocketft.data.sources import MADE_BY_TOOLS, SourceFile

MAGIC = b"PK\x03\x04"
MAX_MEMBERS = 200_000
MAX_MEMBER_BYTES = 8 << 30
MAX_TOTAL_BYTES = 32 << 30
# People's text shrinks to a third, machine-written JSON to a thirtieth. Only what is made to hurt goes beyond this.
MAX_RATIO = 200
RATIO_COUNTS_FROM_BYTES = 1 << 20
TOO_DENSE = f"file compressed more than {MAX_RATIO} times, as no text is"
MAX_DEPTH = 2  # Notion puts its export into an archive within the archive

_DAMAGED = (zipfile.BadZipFile, zlib.error, EOFError, KeyError, NotImplementedError, RuntimeError, ValueError)
_DOCUMENTS = (
    ("word/document.xml", "Word document"),
    ("xl/workbook.xml", "Excel workbook (save it as CSV)"),
    ("ppt/presentation.xml", "presentation"),
    ("META-INF/container.xml", "EPUB book"),
    ("META-INF/manifest.xml", "OpenDocument file"),
    ("META-INF/MANIFEST.MF", "Java archive"),
)


def opened(file: SourceFile, report: ReadReport, depth: int = 0) -> Iterator[SourceFile]:
    """The files in an archive, sorted by name; any other file as it is."""
    with file.open() as stream:
        is_archive = stream.read(len(MAGIC)) == MAGIC
    if not is_archive or document_kind(file):
        yield file
        return
    if depth == MAX_DEPTH:
        report.skip_file(file.name, "archive in an archive in an archive")
        return
    with tempfile.TemporaryDirectory() as folder:
        try:
            archive = zipfile.ZipFile(_on_disk(file, Path(folder)))
        except (zipfile.BadZipFile, NotImplementedError, ValueError) as error:
            report.skip_file(file.name, f"zip archive that cannot be opened ({str(error).lower()})")
            return
        with archive:
            for member in _members(archive, file, report):
                try:
                    yield from opened(member, report, depth + 1)
                except OSError as error:
                    report.skip_file(member.name, f"cannot be read: {error.strerror or error}")


def document_kind(file: SourceFile) -> str | None:
    """What an archive is where it is one document; None for an archive of files, or what cannot be opened."""
    try:
        with file.open_seekable() as stream, zipfile.ZipFile(stream) as archive:
            names = set(archive.namelist())
    except (zipfile.BadZipFile, NotImplementedError, ValueError, EOFError):
        return None
    return next((kind for name, kind in _DOCUMENTS if name in names), None)


@contextmanager
def opened_document(file: SourceFile, what: str, report: ReadReport) -> Iterator[zipfile.ZipFile]:
    """The members of one document. Damage found while they are read ends the block, and the report is told."""
    with file.open_seekable() as stream:
        try:
            with zipfile.ZipFile(stream) as archive:
                yield archive
        except (*_DAMAGED, ParseError) as error:
            report.damage(file.name, f"damaged {what}: {error}")


def is_too_dense(member: zipfile.ZipInfo) -> bool:
    return member.file_size > RATIO_COUNTS_FROM_BYTES and member.file_size > MAX_RATIO * max(1, member.compress_size)


def _on_disk(file: SourceFile, folder: Path) -> Path:
    if file.archive is None:
        return file.path
    path = folder / "inner.zip"
    with file.open() as stream, path.open("wb") as copy:
        _copy(stream, copy)
    return path


def _copy(stream: IO[bytes], copy: IO[bytes]) -> None:
    while chunk := stream.read(1 << 20):
        copy.write(chunk)


def _members(archive: zipfile.ZipFile, file: SourceFile, report: ReadReport) -> Iterator[SourceFile]:
    """Members within the limits. The sizes are those stated; zipfile reads no further than them."""
    infos = [info for info in archive.infolist() if not info.is_dir()]
    if len(infos) > MAX_MEMBERS:
        report.skip_file(file.name, f"zip archive with more than {MAX_MEMBERS:,} files")
        return
    total_bytes = 0
    for info in sorted(infos, key=lambda info: info.filename):
        parts = info.filename.replace("\\", "/").split("/")
        if any(part.startswith(".") or part in MADE_BY_TOOLS for part in parts):
            continue
        shown = f"{file.name}/{info.filename}".encode("utf-8", "replace").decode()
        if reason := _refusal(info):
            report.skip_file(shown, reason)
            continue
        total_bytes += info.file_size
        if total_bytes > MAX_TOTAL_BYTES:
            report.skip_file(shown, f"zip archive of more than {MAX_TOTAL_BYTES >> 30} GB: this and what follows")
            return
        yield SourceFile(file.path, shown, info.file_size, archive, info.filename)


def _refusal(info: zipfile.ZipInfo) -> str | None:
    if info.flag_bits & 1:
        return "encrypted file in an archive; unpack it first"
    if info.file_size > MAX_MEMBER_BYTES:
        return f"file of more than {MAX_MEMBER_BYTES >> 30} GB in an archive; unpack it first"
    if is_too_dense(info):
        return TOO_DENSE
    return None
