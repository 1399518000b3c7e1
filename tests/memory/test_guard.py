"""The guard stops before the cap, not after it, and the hard limit turns a runaway allocation into an error."""

from __future__ import annotations

import errno
import subprocess
import sys
import warnings

import pytest

from pocketft.errors import MemoryCapError
from pocketft.memory.allocator import allocated_bytes
from pocketft.memory.guard import Guard, hard_limit, is_out_of_memory
from pocketft.memory.meter import rss_bytes

MB = 1 << 20


def test_the_guard_counts_what_is_still_to_come() -> None:
    guard = Guard(rss_bytes() + 100 * MB)
    assert not guard.is_tight(50 * MB) and guard.missing_bytes(50 * MB) == 0
    assert guard.is_tight(200 * MB) and 50 * MB < guard.missing_bytes(200 * MB) <= 150 * MB
    assert "give a larger --memory" in str(guard.refusal(200 * MB))


def test_a_crossing_between_two_looks_is_not_passed_in_silence(monkeypatch: pytest.MonkeyPatch) -> None:
    guard = Guard(rss_bytes() + 100 * MB)
    monkeypatch.setattr("pocketft.memory.guard.peak_rss_bytes", lambda: 1 << 50)
    with pytest.raises(MemoryCapError, match="more than the cap"):
        guard.is_tight(0)


def test_work_without_a_plan_does_not_begin_beyond_the_cap(monkeypatch: pytest.MonkeyPatch) -> None:
    guard = Guard(rss_bytes() + 100 * MB)
    monkeypatch.setattr("pocketft.memory.guard.peak_rss_bytes", lambda: 1 << 50)
    begun = False
    with pytest.raises(MemoryCapError, match="more than the cap"), guard.kept():
        begun = True
    assert not begun


def test_a_peak_near_the_cap_is_a_warning_even_when_it_is_over(monkeypatch: pytest.MonkeyPatch) -> None:
    guard = Guard(rss_bytes() + 1000 * MB)
    monkeypatch.setattr("pocketft.memory.guard.peak_rss_bytes", lambda: guard.cap_bytes - MB)
    assert guard.is_tight(0) and guard.be_frugal() and not guard.be_frugal()


def test_freed_memory_waits_only_within_what_is_expected(monkeypatch: pytest.MonkeyPatch) -> None:
    trims: list[bool] = []
    monkeypatch.setattr("pocketft.memory.guard.rss_bytes", lambda: 500 * MB)
    monkeypatch.setattr("pocketft.memory.guard.trim_heap", lambda: trims.append(True))
    guard = Guard(2000 * MB)
    guard.stay_within(600 * MB, 90 * MB, 300 * MB, after_its_like=True)
    assert not trims
    guard.stay_within(600 * MB, 110 * MB, 0, after_its_like=True)
    assert trims


def test_freed_memory_that_serves_what_comes_stays(monkeypatch: pytest.MonkeyPatch) -> None:
    trims: list[bool] = []
    unallocated = 100 * MB
    monkeypatch.setattr("pocketft.memory.guard.rss_bytes", lambda: 550 * MB)
    monkeypatch.setattr("pocketft.memory.guard.trim_heap", lambda: trims.append(True))
    monkeypatch.setattr("pocketft.memory.guard._unallocated_bytes", lambda: unallocated)
    guard = Guard(2000 * MB)
    unallocated = 500 * MB  # 400 freed: all graphs of the step before
    guard.stay_within(600 * MB, 90 * MB, 300 * MB, after_its_like=True)
    assert not trims
    guard.stay_within(600 * MB, 110 * MB, 300 * MB, after_its_like=True)  # half of that would be too much
    assert trims.pop()
    unallocated += 75 * MB  # in gaps between the graphs of this one
    guard.stay_within(600 * MB, 90 * MB, 300 * MB, after_its_like=True)
    assert trims


def test_without_graphs_a_block_uses_what_the_one_before_has_freed(monkeypatch: pytest.MonkeyPatch) -> None:
    trims: list[bool] = []
    unallocated, in_use = 100 * MB, 520 * MB
    monkeypatch.setattr("pocketft.memory.guard.rss_bytes", lambda: in_use)
    monkeypatch.setattr("pocketft.memory.guard.trim_heap", lambda: trims.append(True))
    monkeypatch.setattr("pocketft.memory.guard._unallocated_bytes", lambda: unallocated)
    guard = Guard(2000 * MB)
    guard.stay_within(600 * MB, 90 * MB, 0, after_its_like=True)  # nothing is free
    assert trims.pop()
    unallocated += 90 * MB
    guard.stay_within(600 * MB, 90 * MB, 0, after_its_like=True)
    assert not trims
    guard.stay_within(600 * MB, 90 * MB, 0, after_its_like=False)
    assert trims.pop()
    unallocated += 90 * MB
    in_use = 530 * MB  # a block that finds no room would lead 3% beyond what is expected
    guard.stay_within(600 * MB, 90 * MB, 0, after_its_like=True)
    assert trims


def test_freed_memory_is_given_back_before_the_cap_counts_as_near(monkeypatch: pytest.MonkeyPatch) -> None:
    unallocated, in_use = 100 * MB, 1900 * MB

    def trim() -> None:
        nonlocal in_use
        in_use -= 100 * MB

    monkeypatch.setattr("pocketft.memory.guard.rss_bytes", lambda: in_use)
    monkeypatch.setattr("pocketft.memory.guard.peak_rss_bytes", lambda: 1900 * MB)
    monkeypatch.setattr("pocketft.memory.guard.trim_heap", trim)
    monkeypatch.setattr("pocketft.memory.guard._unallocated_bytes", lambda: unallocated)
    guard = Guard(2001 * MB)
    assert not guard.is_tight(180 * MB) and in_use == 1800 * MB
    assert guard.is_tight(410 * MB)


def test_half_of_what_is_freed_is_room_below_the_cap(monkeypatch: pytest.MonkeyPatch) -> None:
    unallocated = 100 * MB
    monkeypatch.setattr("pocketft.memory.guard.rss_bytes", lambda: 1900 * MB)
    monkeypatch.setattr("pocketft.memory.guard.peak_rss_bytes", lambda: 1900 * MB)
    monkeypatch.setattr("pocketft.memory.guard._unallocated_bytes", lambda: unallocated)
    guard = Guard(2001 * MB)
    assert guard.is_tight(150 * MB)
    unallocated = 220 * MB
    assert not guard.is_tight(150 * MB) and guard.is_tight(170 * MB)


@pytest.mark.skipif(not allocated_bytes(), reason="the C library counts nothing")
def test_the_heap_tells_what_is_freed_and_still_resident() -> None:
    program = (
        "import torch; from pocketft.memory.allocator import allocated_bytes, keep_freed_memory\n"
        "from pocketft.memory.guard import Guard\n"
        "keep_freed_memory(); guard = Guard(1 << 40); before = allocated_bytes()\n"
        "tensors = [torch.ones(16 << 20, dtype=torch.uint8) for _ in range(8)]\n"
        "print(allocated_bytes() - before >> 20, guard._idle_bytes() >> 20)\n"
        "del tensors[:7]\n"
        "print(allocated_bytes() - before >> 20, guard._idle_bytes() >> 20)\n"
        "guard.stay_within(0, 1 << 30, 0, after_its_like=True)\n"
        "print(guard._idle_bytes() >> 20)\n"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    in_use, idle, later_in_use, later_idle, idle_when_trimmed = (int(word) for word in done.stdout.split())
    assert 128 <= in_use < 132 and idle < 16
    assert 16 <= later_in_use < 20 and 108 <= later_idle < 128
    assert idle_when_trimmed == 0


@pytest.mark.parametrize(
    "error",
    [
        MemoryError(),
        RuntimeError("unable to mmap 8 bytes from file: Cannot allocate memory (12)"),
        RuntimeError("can't start new thread"),
        OSError(errno.ENOMEM, "Cannot allocate memory"),
    ],
)
def test_a_refusal_of_memory_is_known_by_all_its_names(error: Exception) -> None:
    assert is_out_of_memory(error)
    assert not is_out_of_memory(OSError(errno.EIO, "out of memory")) and not is_out_of_memory(RuntimeError("size"))


@pytest.mark.skipif(sys.platform != "linux", reason="RLIMIT_DATA counts private memory on Linux only")
def test_beyond_the_hard_limit_an_allocation_fails_with_one_line() -> None:
    program = (
        "import torch; from pocketft.memory.guard import hard_limit; from pocketft.memory.meter import rss_bytes\n"
        "cap = rss_bytes() + (200 << 20)\n"
        "try:\n"
        "    with hard_limit(cap): torch.ones(350 << 20, dtype=torch.uint8)\n"
        "except Exception as error: print(type(error).__name__, error)\n"
        "print(torch.ones(1 << 30, dtype=torch.uint8).sum().item())\n"  # lifted again
    )
    out = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=120).stdout
    assert out.startswith("MemoryCapError an allocation would have crossed the cap") and str(1 << 30) in out


GIVEN_BACK = """
import resource, torch
from pocketft.memory.allocator import keep_freed_memory
from pocketft.memory.guard import Guard, hard_limit
from pocketft.memory.meter import rss_bytes, status_bytes
cap = rss_bytes() + (300 << 20)
if {persons}:
    resource.setrlimit(resource.RLIMIT_DATA, (status_bytes("VmData") + (300 << 20), resource.RLIM_INFINITY))
guard = Guard(cap)
keep_freed_memory()
with hard_limit(cap):
    held = [torch.ones(size, dtype=torch.uint8) for _ in range(34) for size in (8 << 20, 1 << 10)]
    held = held[1::2]  # small ones between the gaps: the heap cannot shrink
    before = resource.getrlimit(resource.RLIMIT_DATA)
    assert guard.be_frugal()
    if {persons}:
        assert resource.getrlimit(resource.RLIMIT_DATA) == before
    else:
        torch.ones(290 << 20, dtype=torch.uint8)
print("went well")
"""


@pytest.mark.skipif(sys.platform != "linux", reason="RLIMIT_DATA counts private memory on Linux only")
@pytest.mark.parametrize("persons", [False, True])
def test_what_the_heap_gave_back_does_not_count_and_a_limit_of_the_persons_stays(persons: bool) -> None:
    program = GIVEN_BACK.format(persons=persons)
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=120)
    assert done.stdout == "went well\n", done.stderr


_RESERVED = """
import mmap
from pocketft.memory.guard import Guard, hard_limit
from pocketft.memory.meter import rss_bytes
guard = Guard(rss_bytes() + (300 << 20))
def reserve(mb): return mmap.mmap(-1, mb << 20, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
with hard_limit(guard.cap_bytes):
    kept = [reserve(200), reserve(150)]
    guard.is_tight(0)
    kept += [reserve(200), reserve(150)]
    try: reserve(500)
    except OSError as error: print(error)
"""


@pytest.mark.skipif(sys.platform != "linux", reason="RLIMIT_DATA counts private memory on Linux only")
def test_what_is_reserved_and_not_in_memory_is_not_held_against_a_run_for_long() -> None:
    done = subprocess.run([sys.executable, "-c", _RESERVED], capture_output=True, text=True)
    assert done.stdout == "[Errno 12] Cannot allocate memory\n", done.stdout + done.stderr


def test_a_product_that_is_refused_memory_fails_instead_of_going_wrong() -> None:
    """torch only warns, in these words, and goes on in another way that gives NaN."""
    with pytest.raises(MemoryCapError, match="would have crossed the cap"), hard_limit(rss_bytes() + 1000 * MB):
        warnings.warn("mkldnn_matmul failed, switching to baddbmm:could not create a primitive", stacklevel=1)
