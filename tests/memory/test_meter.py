"""The meter against what the process really does, and against cgroup trees of every shape."""

from __future__ import annotations

import mmap
import sys
from pathlib import Path

import psutil
import pytest

from pocketft.memory import meter

MB = 1 << 20


def test_resident_memory_agrees_with_psutil() -> None:
    assert meter.rss_bytes() == pytest.approx(psutil.Process().memory_info().rss, abs=4 * MB)


def test_touched_memory_shows_and_the_peak_remembers_it() -> None:
    before = meter.rss_bytes()
    with mmap.mmap(-1, 64 * MB) as block:  # an own mapping: freed memory goes back to the system at once
        for offset in range(0, 64 * MB, mmap.PAGESIZE):
            block[offset] = 1
        assert meter.rss_bytes() - before > 56 * MB
        assert meter.peak_rss_bytes() >= meter.rss_bytes() - MB
    assert meter.peak_rss_bytes() - before > 56 * MB
    assert meter.rss_bytes() < meter.peak_rss_bytes()


def test_available_and_total_are_within_the_machine() -> None:
    assert 0 < meter.available_bytes() <= meter.total_bytes() <= psutil.virtual_memory().total


def tree(root: Path, cgroup: str, mounts: str, files: dict[str, str]) -> Path:
    for name, text in {"proc/self/cgroup": cgroup, "proc/self/mountinfo": mounts, **files}.items():
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    return root


V2_MOUNT = "31 23 0:28 / /sys/fs/cgroup rw,nosuid - cgroup2 cgroup2 rw,nsdelegate\n"
V1_MOUNTS = (
    "32 31 0:29 / /sys/fs/cgroup/cpu rw - cgroup cgroup rw,cpu\n"
    "35 31 0:32 / /sys/fs/cgroup/memory rw,relatime shared:9 - cgroup cgroup rw,memory\n"
)
UNLIMITED = "9223372036854771712\n"

on_linux = pytest.mark.skipif(not sys.platform.startswith("linux"), reason="cgroups are Linux's")


@on_linux
def test_v2_takes_the_smallest_limit_up_the_tree(tmp_path: Path) -> None:
    base = "sys/fs/cgroup"
    root = tree(
        tmp_path,
        "0::/user.slice/app.scope\n",
        V2_MOUNT,
        {
            f"{base}/user.slice/app.scope/memory.max": "max\n",
            f"{base}/user.slice/memory.max": f"{500 * MB}\n",
            f"{base}/user.slice/memory.current": f"{300 * MB}\n",
            f"{base}/user.slice/memory.stat": f"anon 5\nfile 7\ninactive_file {100 * MB}\n",
        },
    )
    assert meter.cgroup_limit_bytes(root) == 500 * MB
    assert meter.cgroup_available_bytes(root) == 300 * MB


@on_linux
def test_v1_takes_the_smallest_limit_and_counts_children_cache_as_free(tmp_path: Path) -> None:
    base = "sys/fs/cgroup/memory"
    root = tree(
        tmp_path,
        "5:cpu:/a\n4:memory:/a/b\n",
        V1_MOUNTS,
        {
            f"{base}/memory.limit_in_bytes": UNLIMITED,
            f"{base}/a/memory.limit_in_bytes": f"{400 * MB}\n",
            f"{base}/a/memory.usage_in_bytes": f"{390 * MB}\n",
            f"{base}/a/memory.stat": f"inactive_file 0\ntotal_inactive_file {90 * MB}\n",
            f"{base}/a/b/memory.limit_in_bytes": f"{900 * MB}\n",
            f"{base}/a/b/memory.usage_in_bytes": "0\n",
        },
    )
    assert meter.cgroup_limit_bytes(root) == 400 * MB
    assert meter.cgroup_available_bytes(root) == 100 * MB


@on_linux
def test_a_container_sees_its_limit_at_the_mount(tmp_path: Path) -> None:
    mounts = "35 31 0:32 /docker/abc /sys/fs/cgroup/memory ro - cgroup cgroup rw,memory\n"
    root = tree(
        tmp_path, "4:memory:/docker/abc\n", mounts, {"sys/fs/cgroup/memory/memory.limit_in_bytes": f"{256 * MB}\n"}
    )
    assert meter.cgroup_limit_bytes(root) == 256 * MB


@on_linux
def test_a_path_outside_the_mount_falls_back_to_the_mount(tmp_path: Path) -> None:
    root = tree(tmp_path, "0::/../elsewhere\n", V2_MOUNT, {"sys/fs/cgroup/memory.max": f"{128 * MB}\n"})
    assert meter.cgroup_limit_bytes(root) == 128 * MB


@on_linux
@pytest.mark.parametrize("files", [{}, {"sys/fs/cgroup/memory/memory.limit_in_bytes": UNLIMITED}])
def test_no_limit_is_none(tmp_path: Path, files: dict[str, str]) -> None:
    root = tree(tmp_path, "4:memory:/\n", V1_MOUNTS, files)
    assert meter.cgroup_limit_bytes(root) is None
    assert meter.cgroup_available_bytes(root) is None


def test_a_system_without_proc_has_no_limit(tmp_path: Path) -> None:
    assert meter.cgroup_limit_bytes(tmp_path) is None
