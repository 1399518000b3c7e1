"""A hard memory limit by the kernel: a control group of our own below the one that we are in, version 1 or 2.

Beyond the limit the kernel first takes back pages of files, then kills. Swap is off inside, or the machine must have
none: a process that swaps has not fitted.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

_MOUNT = Path("/sys/fs/cgroup")
_NAME = f"pocketft-bench-{os.getpid()}"


class NoLimit(Exception):
    """This machine does not offer a limit to us; the text says why."""


@dataclass(frozen=True)
class Group:
    """A control group. `version` 1 or 2."""

    folder: Path
    version: int

    @property
    def procs(self) -> Path:
        """Whoever writes its process id there, enters."""
        return self.folder / "cgroup.procs"

    def limit(self, limit_bytes: int) -> None:
        if self.version == 2:
            (self.folder / "memory.max").write_text(str(limit_bytes))
            return
        combined = self.folder / "memory.memsw.limit_in_bytes"  # memory and swap: never below memory alone
        if combined.exists():
            combined.write_text("-1")
        (self.folder / "memory.limit_in_bytes").write_text(str(limit_bytes))
        if combined.exists():
            combined.write_text(str(limit_bytes))


@contextmanager
def own_group(mount: Path = _MOUNT, proc: Path = Path("/proc")) -> Iterator[Group]:
    """A fresh group, removed afterwards. Raises NoLimit where none can be had."""
    group = _make(mount, proc)
    try:
        _without_swap(group, proc)
        yield group
    finally:
        with suppress(OSError):
            group.folder.rmdir()


def _make(mount: Path, proc: Path) -> Group:
    version, own = _group_we_are_in(mount, proc)
    parents = [own, *own.parents]
    reasons = []
    for parent in parents[: parents.index(mount_of(mount, version)) + 1]:
        folder = parent / _NAME
        try:
            folder.mkdir()
        except OSError as error:
            reasons.append(str(error.strerror))
            continue
        if (folder / _LIMIT_FILE[version]).exists():
            return Group(folder, version)
        folder.rmdir()  # version 2: this parent does not hand its memory on to groups below
        reasons.append("memory is not handed on")
    raise NoLimit(f"no control group can be made here ({', '.join(dict.fromkeys(reasons))})")


_LIMIT_FILE = {1: "memory.limit_in_bytes", 2: "memory.max"}


def mount_of(mount: Path, version: int) -> Path:
    """Where the hierarchy that limits memory begins."""
    return mount if version == 2 else mount / "memory"


def _group_we_are_in(mount: Path, proc: Path) -> tuple[int, Path]:
    """The version that limits memory here, and our own group's folder; the topmost where ours is not to be seen."""
    if (mount / "memory" / "memory.limit_in_bytes").exists():
        version, wanted = 1, "memory"
    elif "memory" in _words(mount / "cgroup.controllers"):
        version, wanted = 2, ""
    else:
        raise NoLimit("there are no control groups for memory here")
    top = mount_of(mount, version)
    for line in _lines(proc / "self" / "cgroup"):
        _, _, rest = line.partition(":")
        controllers, _, path = rest.partition(":")
        if wanted in controllers.split(",") and (top / path.lstrip("/")).is_dir():
            return version, top / path.lstrip("/")
    return version, top


def _without_swap(group: Group, proc: Path) -> None:
    swap_file = group.folder / "memory.swap.max"
    if group.version == 2 and swap_file.exists():
        swap_file.write_text("0")
    elif len(_lines(proc / "swaps")) > 1 and not (group.folder / "memory.memsw.limit_in_bytes").exists():
        raise NoLimit("this machine swaps, and its control groups cannot forbid that")


def _words(path: Path) -> list[str]:
    return " ".join(_lines(path)).split()


def _lines(path: Path) -> list[str]:
    try:
        return path.read_text().splitlines()
    except OSError:
        return []
