"""Writing files so that a kill at any moment leaves the old or the new, never half of one.

Knows the file system and nothing of what is written. A full disk or a read-only folder becomes a `StorageError`.
"""

from __future__ import annotations

import errno
import hashlib
import json
import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from pocketft.errors import StorageError

_ADVICE = {
    errno.ENOSPC: "the disk is full; free some space or choose another folder",
    errno.EDQUOT: "the disk quota is used up; free some space or choose another folder",
    errno.EROFS: "the file system is read-only; choose another folder",
    errno.EACCES: "no permission to write there; choose another folder",
    errno.EPERM: "no permission to write there; choose another folder",
    errno.EEXIST: "a part of that path is a file, not a folder; choose another folder",
    errno.EISDIR: "that is a folder; name a file",
    errno.ENAMETOOLONG: "that name is too long; choose a shorter one",
    errno.ENOTDIR: "a part of that path is a file, not a folder; choose another folder",
}


def expanded(path: str) -> Path:
    """A path as a person writes it: ~ is their home. The home of a stranger stays as it is written, and is then missing
    like any other folder.
    """
    return Path(os.path.expanduser(path))


@contextmanager
def storage_errors(path: Path) -> Iterator[None]:
    """Turn an OSError that a person can do something about into one line."""
    try:
        yield
    except OSError as error:
        advice = _ADVICE.get(error.errno or 0)
        if advice is None:
            raise
        raise StorageError(f"cannot write {path}: {advice}") from error


@contextmanager
def atomic_path(path: Path) -> Iterator[Path]:
    """Yield a temporary name beside `path`; on success flush it to disk and rename it over `path`."""
    with storage_errors(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        handle, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.", suffix=".tmp")
        os.close(handle)
        temporary = Path(name)
        try:
            yield temporary
            _fsync(temporary)
            os.chmod(temporary, 0o666 & ~_umask())
            os.replace(temporary, path)
            _fsync(path.parent)
        finally:
            temporary.unlink(missing_ok=True)


@contextmanager
def atomic_folder(path: Path) -> Iterator[Path]:
    """Yield a temporary folder beside `path`; on success rename it to `path`, replacing an older one.

    The old folder is moved aside first and removed last: what interrupts the replacement puts it back. After a kill
    between the two renames nothing is at `path`, and both are whole beside it, under their temporary names.
    """
    with storage_errors(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        temporary = Path(tempfile.mkdtemp(dir=path.parent, prefix=f".{path.name}.", suffix=".tmp"))
        try:
            yield temporary
            for file in temporary.rglob("*"):
                if file.is_file():
                    _fsync(file)
            os.chmod(temporary, 0o777 & ~_umask())
            if path.exists():
                _replace_folder(temporary, path)
            else:
                os.replace(temporary, path)
            _fsync(path.parent)
        finally:
            shutil.rmtree(temporary, ignore_errors=True)


def _replace_folder(new: Path, path: Path) -> None:
    aside = new.with_suffix(".old")
    try:
        os.replace(path, aside)
        os.replace(new, path)
    except BaseException:
        if not path.exists():
            os.replace(aside, path)
        raise
    shutil.rmtree(aside, ignore_errors=True)


def write_text(path: Path, text: str) -> None:
    with atomic_path(path) as temporary:
        temporary.write_text(text, encoding="utf-8")


def write_json(path: Path, value: Any) -> None:
    write_text(path, json.dumps(value, indent=2, ensure_ascii=False) + "\n")


def require_space(path: Path, needed_bytes: int, advice: str = "choose another folder") -> None:
    """A full disk found before anything is written at `path`, rather than after a minute. `advice`: what to do where
    no space can be made.
    """
    existing = next(folder for folder in (path, *path.absolute().parents) if folder.exists())
    free_bytes = shutil.disk_usage(existing).free
    if free_bytes < needed_bytes:
        raise StorageError(
            f"cannot write {path}: it needs {needed_bytes >> 20:,} MB and the disk has {free_bytes >> 20:,} MB free; "
            f"free some space or {advice}"
        )


def sha256_of(path: Path) -> str:
    with path.open("rb") as file:
        if hasattr(hashlib, "file_digest"):
            return hashlib.file_digest(file, "sha256").hexdigest()
        digest = hashlib.sha256()
        while chunk := file.read(1 << 20):
            digest.update(chunk)
        return digest.hexdigest()


def _fsync(path: Path) -> None:
    try:
        descriptor = os.open(path, os.O_RDONLY)
    except PermissionError:  # a folder cannot be opened on Windows
        return
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _umask() -> int:
    mask = os.umask(0)
    os.umask(mask)
    return mask
