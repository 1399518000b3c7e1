"""Which files a person means by the paths they gave, in a fixed order, and what identifies their content.

Knows the file system: folders, links, hidden names, and how a file is opened, be it in an archive. Knows nothing of
what is in one.
"""

from __future__ import annotations

import hashlib
import io
import os
import posixpath
import shutil
import stat
import tempfile
import zipfile
import zlib
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath
from typing import IO, Any

from pocketft.data.documents import ReadReport
from pocketft.errors import UsageError

RUN_FOLDER_FILES = ("pocketft.json", "adapter_config.json")
MADE_BY_TOOLS = ("node_modules", "__pycache__", "__MACOSX")
MAILDIR = ("cur", "new", "tmp")
CHUNK_BYTES = 1 << 20
SPOOL_BYTES = 4 << 20


@dataclass(frozen=True)
class SourceFile:
    """`name` is how the file is shown and told apart: its path from the folder that was given, never absolute.

    A file in an archive has the archive's `path` and is a `member` of the open `archive`.
    """

    path: Path
    name: str
    size_bytes: int
    archive: zipfile.ZipFile | None = field(default=None, compare=False, repr=False)
    member: str = ""

    @property
    def suffix(self) -> str:
        return PurePosixPath(self.name).suffix.lower()

    def open(self) -> IO[bytes]:
        """For reading once, from the beginning. Whatever is wrong with it is an OSError."""
        if self.archive is None:
            return self.path.open("rb")
        try:
            return io.BufferedReader(_Member(self.archive.open(self.member)), CHUNK_BYTES)
        except _DAMAGED as error:
            raise _damaged(error) from error

    def open_seekable(self) -> IO[bytes]:
        """For formats that are read from their end; a member of an archive is copied out, to disk if it is large."""
        if self.archive is None:
            return self.path.open("rb")
        copy = tempfile.SpooledTemporaryFile(max_size=SPOOL_BYTES)  # noqa: SIM115 - the caller closes it
        with self.open() as stream:
            shutil.copyfileobj(stream, copy, CHUNK_BYTES)
        copy.seek(0)
        return copy  # type: ignore[return-value]

    def neighbour(self, relative: str) -> SourceFile | None:
        """Another file of the same export, named from this one's folder: "../users.json"."""
        name = posixpath.normpath(posixpath.join(posixpath.dirname(self.name), relative))
        if self.archive is not None:
            member = posixpath.normpath(posixpath.join(posixpath.dirname(self.member), relative))
            try:
                return SourceFile(self.path, name, self.archive.getinfo(member).file_size, self.archive, member)
            except KeyError:
                return None
        path = (self.path.parent / relative).resolve()
        return SourceFile(path, name, path.stat().st_size) if path.is_file() else None


_DAMAGED = (zipfile.BadZipFile, zlib.error, EOFError, NotImplementedError, RuntimeError, ValueError)


def _damaged(error: Exception) -> OSError:
    return OSError(f"damaged archive ({error})" if str(error) else "damaged archive")


class _Member(io.RawIOBase):
    """A file in an archive. zipfile never hands out more bytes than the size that the archive states."""

    def __init__(self, stream: IO[bytes]) -> None:
        self._stream = stream

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        try:
            data = self._stream.read(len(buffer))
        except _DAMAGED as error:
            raise _damaged(error) from error
        buffer[: len(data)] = data
        return len(data)

    def close(self) -> None:
        self._stream.close()
        super().close()


def check_paths(paths: Iterable[Path]) -> None:
    for path in paths:
        if not os.path.exists(path):  # unlike Path.exists it answers for a name that is too long
            hint = "the link points nowhere" if os.path.islink(path) else "check the path"
            raise UsageError(f"no such file or folder: {path}; {hint}")


def find_files(paths: Iterable[Path], report: ReadReport) -> Iterator[SourceFile]:
    """Every regular file under `paths`, sorted by name within its folder, each once.

    Hidden files and folders and our own run folders are passed over in silence (nobody means them); what is passed over
    for another reason goes to the report. A file or folder named by the person is taken even if it is hidden.
    """
    seen: set[int] = set()
    for path in paths:
        if os.path.isdir(path):
            yield from _walk(path, path.resolve().name, seen, report)
        else:
            yield from _file(path, path.name, seen, report)


def content_fingerprint(files: Iterable[SourceFile]) -> tuple[str, int]:
    """A hash of all names and contents, and the total size in bytes; reads everything once, holding one chunk."""
    digest = hashlib.blake2b(digest_size=20)
    total_bytes = 0
    chunk = bytearray(CHUNK_BYTES)
    for file in files:
        digest.update(file.name.encode("utf-8", "surrogateescape") + b"\0")
        total_bytes += file.size_bytes
        try:
            with file.path.open("rb", buffering=0) as stream:
                length = 0
                while count := stream.readinto(chunk):
                    digest.update(memoryview(chunk)[:count])
                    length += count
        except OSError as error:
            digest.update(f"unreadable {error.errno}".encode())
            continue
        digest.update(length.to_bytes(8, "little"))
    return digest.hexdigest(), total_bytes


def _walk(folder: Path, name: str, seen: set[int], report: ReadReport) -> Iterator[SourceFile]:
    if not _first_visit(folder, seen):  # a link to a folder above, or one given twice
        return
    try:
        with os.scandir(folder) as entries:
            names = sorted(entry.name for entry in entries)
    except OSError as error:
        report.skip_file(f"{name}/", f"folder cannot be opened: {error.strerror}")
        return
    if any(mark in names for mark in RUN_FOLDER_FILES):
        return
    is_maildir = set(MAILDIR) <= set(names)
    for entry in names:
        path = folder / entry
        if entry.startswith(".") and not (is_maildir and os.path.isdir(path / "cur")):  # a Maildir's folders are hidden
            continue
        if entry in MADE_BY_TOOLS or (is_maildir and entry == "tmp"):
            continue
        shown = f"{name}/{entry}"
        if os.path.isdir(path):  # unlike Path.is_dir it answers where looking is not allowed; `_file` says so
            yield from _walk(path, shown, seen, report)
        else:
            yield from _file(path, shown, seen, report)


def _file(path: Path, name: str, seen: set[int], report: ReadReport) -> Iterator[SourceFile]:
    name = name.encode("utf-8", "replace").decode()  # names that are not UTF-8 must still travel through JSON
    try:
        status = path.stat()
    except OSError as error:
        nowhere = isinstance(error, FileNotFoundError) and path.is_symlink()
        report.skip_file(name, "link that points nowhere" if nowhere else f"cannot be read: {error.strerror}")
        return
    if not stat.S_ISREG(status.st_mode):
        report.skip_file(name, "not a regular file")
    elif _first_visit(path, seen):
        yield SourceFile(path, name, status.st_size)


def _first_visit(path: Path, seen: set[int]) -> bool:
    status = path.stat()
    identity = hash((status.st_dev, status.st_ino))
    if identity in seen and status.st_ino != 0:
        return False
    seen.add(identity)
    return True
