"""scripts/bench cap: which control group is made on which kind of machine, and what halving finds."""

from __future__ import annotations

from pathlib import Path

import pytest
from benchmark.kernel_limit import Group, NoLimit, _group_we_are_in, own_group
from benchmark.search import smallest_passing


@pytest.mark.parametrize("threshold", [97, 250, 511, 900])
def test_halving_finds_the_smallest_that_passes(threshold: int) -> None:
    asked: list[int] = []

    def passes(value: int) -> bool:
        asked.append(value)
        return value >= threshold

    found = smallest_passing(passes, too_low=96, high=1000, within=8)
    assert found is not None and threshold <= found <= threshold + 8
    assert len(asked) <= 10


def test_halving_ends_at_once_where_nothing_passes() -> None:
    asked: list[int] = []
    assert smallest_passing(lambda value: bool(asked.append(value)), 96, 1000, 8) is None
    assert asked == [1000]


def test_halving_does_not_try_what_is_known_to_be_too_low() -> None:
    found = smallest_passing(lambda value: True, 96, 1000, 8)
    assert found is not None and 96 < found <= 104


def write(path: Path, text: str = "") -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)


def test_version_1_finds_its_own_group(tmp_path: Path) -> None:
    write(tmp_path / "cgroup/memory/memory.limit_in_bytes", "1")
    write(tmp_path / "cgroup/memory/jobs/mine/memory.limit_in_bytes", "1")
    write(tmp_path / "proc/self/cgroup", "5:cpu:/else\n4:memory:/jobs/mine\n0::/\n")
    assert _group_we_are_in(tmp_path / "cgroup", tmp_path / "proc") == (1, tmp_path / "cgroup/memory/jobs/mine")


def test_version_2_finds_its_own_group(tmp_path: Path) -> None:
    write(tmp_path / "cgroup/cgroup.controllers", "cpuset cpu io memory pids")
    write(tmp_path / "cgroup/user.slice/memory.max", "max")
    write(tmp_path / "proc/self/cgroup", "0::/user.slice\n")
    assert _group_we_are_in(tmp_path / "cgroup", tmp_path / "proc") == (2, tmp_path / "cgroup/user.slice")


def test_a_group_that_is_not_to_be_seen_from_a_container_is_the_topmost(tmp_path: Path) -> None:
    write(tmp_path / "cgroup/cgroup.controllers", "memory")
    write(tmp_path / "proc/self/cgroup", "0::/../other\n")
    assert _group_we_are_in(tmp_path / "cgroup", tmp_path / "proc") == (2, tmp_path / "cgroup")


def test_a_machine_without_control_groups_says_so(tmp_path: Path) -> None:
    write(tmp_path / "proc/self/cgroup", "0::/\n")
    with (
        pytest.raises(NoLimit, match="no control groups for memory"),
        own_group(tmp_path / "cgroup", tmp_path / "proc"),
    ):
        pass


def test_a_group_that_cannot_limit_memory_is_not_used_and_not_left_behind(tmp_path: Path) -> None:
    write(tmp_path / "cgroup/cgroup.controllers", "memory")
    write(tmp_path / "proc/self/cgroup", "0::/\n")
    with pytest.raises(NoLimit, match="not handed on"), own_group(tmp_path / "cgroup", tmp_path / "proc"):
        pass
    assert [path.name for path in (tmp_path / "cgroup").iterdir()] == ["cgroup.controllers"]


def test_version_1_limits_memory_and_swap_together(tmp_path: Path) -> None:
    write(tmp_path / "memory.memsw.limit_in_bytes", "-1")
    Group(tmp_path, 1).limit(1 << 20)
    assert (tmp_path / "memory.limit_in_bytes").read_text() == "1048576"
    assert (tmp_path / "memory.memsw.limit_in_bytes").read_text() == "1048576"
