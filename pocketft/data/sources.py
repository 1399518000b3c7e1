"""Which files a person means by the paths they gave, in a fixed order, and what identifies their content.

Knows the file system: folders, links, hidden names. Knows nothing of what is in a file.
"""

from __future__ import annotations

import hashlib
import os
import stat
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

from pocketft.data.documents import ReadReport
from pocketft.errors import UsageError

RUN_FOLDER_FILES = ("pocketft.json", "adapter_config.json")
CHUNK_BYTES = 1 << 20


@dataclass(frozen=True)
class SourceFile:
    """`name` is how the file is shown and told apart: its path from the folder that was given, never absolute."""

    path: Path
    name: str
    size_bytes: int


def check_paths(paths: Iterable[Path]) -> None:
    for path in paths:
        if not path.exists():
            hint = "the link points nowhere" if path.is_symlink() else "check the path"
            raise UsageError(f"no such file or folder: {path}; {hint}")


def find_files(paths: Iterable[Path], report: ReadReport) -> Iterator[SourceFile]:
    """Every regular file under `paths`, sorted by name within its folder, each once.

    Hidden files and folders and our own run folders are passed over in silence (nobody means them); what is passed over
    for another reason goes to the report. A file or folder named by the person is taken even if it is hidden.
    """
    seen: set[int] = set()
    for path in paths:
        if path.is_dir():
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
    for entry in names:
        if entry.startswith("."):
            continue
        path = folder / entry
        shown = f"{name}/{entry}"
        if path.is_dir():
            yield from _walk(path, shown, seen, report)
        else:
            yield from _file(path, shown, seen, report)


def _file(path: Path, name: str, seen: set[int], report: ReadReport) -> Iterator[SourceFile]:
    name = name.encode("utf-8", "replace").decode()  # names that are not UTF-8 must still travel through JSON
    try:
        status = path.stat()
    except OSError as error:
        report.skip_file(name, "link that points nowhere" if path.is_symlink() else f"cannot be read: {error.strerror}")
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
