"""Files out of the page cache before a run under a kernel limit.

A group is charged for a page of a file only if it is the first to read it: with a warm cache the libraries would cost
nothing, and the limit that is found would be too small.
"""

from __future__ import annotations

import os
import subprocess
import sysconfig
from collections.abc import Iterable
from contextlib import suppress
from functools import cache
from pathlib import Path

from benchmark.places import HOME, WEIGHTS, our_python


def forget(files: Iterable[Path]) -> None:
    """Drop the clean pages of these files. Pages that another running process has mapped stay."""
    if not hasattr(os, "posix_fadvise"):
        return
    for path in files:
        with suppress(OSError):
            descriptor = os.open(path, os.O_RDONLY)
            try:
                os.posix_fadvise(descriptor, 0, 0, os.POSIX_FADV_DONTNEED)
            finally:
                os.close(descriptor)


def files_of_a_run(python: str) -> list[Path]:
    """The libraries of an environment and all base models, as we and as the peers read them."""
    return [*_libraries(python), *HOME.glob("stores/*/*.bin"), *WEIGHTS.glob("*/*.safetensors")]


@cache
def _libraries(python: str) -> tuple[Path, ...]:
    """Everything installed beside this interpreter."""
    folder = sysconfig.get_paths()["purelib"]
    if python != our_python():
        ask = [python, "-c", "import sysconfig; print(sysconfig.get_paths()['purelib'])"]
        folder = subprocess.run(ask, check=True, capture_output=True, text=True).stdout.strip()
    return tuple(path for path in Path(folder).rglob("*") if path.is_file() and path.stat().st_size > 1 << 16)
