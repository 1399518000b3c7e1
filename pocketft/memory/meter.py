"""How much memory this process uses, used at most, and may use.

Knows the operating system's counters and no plan. The cap is held against resident memory because that is what the
person sees in a task manager; on Linux the figures come straight from the kernel, elsewhere from psutil.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import psutil

_LINUX = sys.platform.startswith("linux")
_STATUS = Path("/proc/self/status")
_UNLIMITED = 1 << 60  # cgroup v1 writes "no limit" as the largest whole number of pages below 2**63


def rss_bytes() -> int:
    """Resident memory now, pages of mapped files included."""
    return status_bytes("VmRSS") or _process().memory_info().rss


def peak_rss_bytes() -> int:
    """The largest `rss_bytes` since the process started (VmHWM)."""
    if peak := status_bytes("VmHWM"):
        return peak
    if sys.platform == "win32":
        return _process().memory_info().peak_wset
    import resource

    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 1024  # macOS counts bytes, everyone else kilobytes


def status_bytes(field: str) -> int:
    """What Linux says of this process under this name; 0 where it says nothing."""
    for line in _lines(_STATUS) if _LINUX else ():
        if line.startswith(field + ":"):
            return int(line.split()[1]) * 1024
    return 0


def total_bytes() -> int:
    """Memory of this machine or of the container we were started in, whichever is smaller."""
    import psutil

    total = psutil.virtual_memory().total
    limit = cgroup_limit_bytes()
    return total if limit is None else min(total, limit)


def available_bytes() -> int:
    """What this process can take now without swapping or being killed."""
    import psutil

    available = psutil.virtual_memory().available
    room = cgroup_available_bytes()
    return available if room is None else max(0, min(available, room))


def usual_cap_bytes() -> int:
    """The cap where nobody named one: 60% of what is free now, so that other programs live on."""
    return int(0.6 * available_bytes())


def cgroup_limit_bytes(root: Path = Path("/")) -> int | None:
    """The smallest hard memory limit from our cgroup up to the top, v1 or v2; None where there is none."""
    limits = [limit for folder in _cgroup_folders(root) if (limit := _limit(folder)) is not None]
    return min(limits, default=None)


def cgroup_available_bytes(root: Path = Path("/")) -> int | None:
    """What the tightest cgroup still allows, counting page cache that the kernel would drop first as free."""
    room = [limit - _used(folder) for folder in _cgroup_folders(root) if (limit := _limit(folder)) is not None]
    return min(room, default=None)


def _cgroup_folders(root: Path) -> Iterator[Path]:
    """Our memory cgroup and its parents, in every hierarchy that is mounted."""
    if not _LINUX:
        return
    own = _own_paths(root)
    for line in _lines(root / "proc/self/mountinfo"):
        # 35 31 0:32 /docker/abc /sys/fs/cgroup/memory rw,relatime - cgroup cgroup rw,memory
        fields, _, tail = line.partition(" - ")
        kind, _, options = tail.partition(" ")
        if kind not in ("cgroup", "cgroup2") or len(fields.split()) < 5:
            continue
        is_v1_memory = kind == "cgroup" and "memory" in options.split()[-1].split(",")
        if kind == "cgroup" and not is_v1_memory:
            continue
        inside, mount_point = fields.split()[3:5]
        mount = root / mount_point.lstrip("/")
        path = own.get("memory" if is_v1_memory else "", "/")
        # In a container the mount shows only its own part of the tree: drop that part from our path.
        if inside != "/" and (path + "/").startswith(inside + "/"):
            path = path[len(inside) :]
        folder = mount / path.lstrip("/")
        if not folder.is_dir():
            folder = mount
        while True:
            yield folder
            if folder == mount or mount not in folder.parents:
                break
            folder = folder.parent


def _own_paths(root: Path) -> dict[str, str]:
    """Controller to path, from lines like "4:memory:/a/b" and, for v2, "0::/a/b" (key "")."""
    paths: dict[str, str] = {}
    for line in _lines(root / "proc/self/cgroup"):
        _, _, rest = line.partition(":")
        controllers, _, path = rest.partition(":")
        for controller in controllers.split(","):
            paths[controller] = path
    return paths


def _limit(folder: Path) -> int | None:
    for name in ("memory.max", "memory.limit_in_bytes"):
        value = _number(folder / name)
        if value is not None and value < _UNLIMITED:
            return value
    return None


def _used(folder: Path) -> int:
    used = _number(folder / "memory.current") or _number(folder / "memory.usage_in_bytes") or 0
    stat = dict(line.split()[:2] for line in _lines(folder / "memory.stat") if len(line.split()) >= 2)
    # v1's plain figure leaves out the child groups; v2 has no other
    reclaimable = stat.get("total_inactive_file", stat.get("inactive_file", "0"))
    return used - (int(reclaimable) if reclaimable.isdigit() else 0)


def _number(path: Path) -> int | None:
    text = "".join(_lines(path)).strip()
    return int(text) if text.isdigit() else None  # v2 writes "max" where there is no limit


def _lines(path: Path) -> list[str]:
    try:
        return path.read_text(encoding="utf-8", errors="replace").splitlines()
    except OSError:
        return []


def _process() -> psutil.Process:
    import psutil

    return psutil.Process()
