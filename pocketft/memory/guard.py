"""Keeps the promise while a run goes on: looks at the meter between blocks and says how much is missing before the cap
is crossed. What to do about it is the business of whoever knows the plan (`shrink.py`).

Also asks the operating system for a hard limit where it has one, so that an allocation that would go too far fails as
a Python exception instead of the process being killed. Knows the meter and the cap; nothing of plans or models.
"""

from __future__ import annotations

import errno
import sys
import warnings
from collections.abc import Iterator
from contextlib import contextmanager

from pocketft.errors import CapTooSmall, MemoryCapError
from pocketft.memory.allocator import allocated_bytes, map_large_tensors, release_code, release_freed_memory, trim_heap
from pocketft.memory.meter import peak_rss_bytes, rss_bytes, status_bytes
from pocketft.memory.size import format_size

# Address space that is reserved and hardly touched counts against RLIMIT_DATA. In a first step 120 MB of it were seen
# to come: 40 for oneDNN's code, of which it uses one, the stacks of threads, and a piece of 64.
_UNTOUCHED_BYTES = 128 << 20
_our_limit: int | None = None  # as set last; another one is the person's and stays
_NEAR = 0.97  # of the cap, beyond what is planned: such a peak turns on frugality before the next can be higher
_READY = 0.5  # of freed memory, for what comes; the rest may lie in pieces that are too small
_HOMELESS = 0.5  # of what comes between the heights of steps: finds no room in what is free
_VENTURED = 0.02  # of what is expected, beyond it: where a block finds no room in what is free
_HEIGHT = 0.93  # of a plan's memory: with more than that in use, the most that a step needs is near
_ADVICE = "give a larger --memory"


class Guard:
    def __init__(self, cap_bytes: int) -> None:
        self.cap_bytes = cap_bytes
        self._frugal = False
        self._unallocated_when_trimmed = _unallocated_bytes()
        self._earlier_peak_bytes = peak_rss_bytes()  # of what this process did before, which is not to be undone

    def is_tight(self, coming_bytes: int) -> bool:
        """Whether the cap is near, or would be crossed by `coming_bytes` more; some finds room in what the block
        before has freed. Raises MemoryCapError if it was crossed since the last look: never is that passed in silence.
        """
        _renew_data_limit(self.cap_bytes)
        peak = peak_rss_bytes()
        if self.is_crossed:
            raise MemoryCapError(f"{format_size(peak)} were in use, more than the cap of {self._cap}; {_ADVICE}")
        if peak > max(_NEAR * self.cap_bytes, self._earlier_peak_bytes):
            return True
        beyond_bytes = rss_bytes() + coming_bytes - self.cap_bytes
        if beyond_bytes <= 0 or beyond_bytes <= _READY * self._idle_bytes():
            return False
        self._trim()
        return rss_bytes() + coming_bytes > self.cap_bytes

    def stay_within(self, expected_bytes: int, coming_bytes: int, graphs_bytes: int, after_its_like: bool) -> None:
        """Freed memory goes back where `coming_bytes` more would lead beyond what is expected, however far the cap.

        Where no graphs are kept, a block `after_its_like` mostly finds its room where the one before was. With graphs
        of `graphs_bytes` in all, what is free waits for them between the heights of steps, as long as half of what
        comes may find no room there.
        """
        in_use = rss_bytes()
        if in_use + coming_bytes <= expected_bytes:
            return
        idle = self._idle_bytes()
        if graphs_bytes:
            at_height = in_use + coming_bytes - min(idle, graphs_bytes) > _HEIGHT * expected_bytes
            too_much = at_height or in_use + _HOMELESS * coming_bytes > expected_bytes
        else:
            ventured = min(idle, _VENTURED * expected_bytes) if after_its_like else 0
            too_much = in_use + coming_bytes - ventured > expected_bytes
        if too_much:
            self._trim()

    def _trim(self) -> None:
        trim_heap()
        self._unallocated_when_trimmed = _unallocated_bytes()

    def _idle_bytes(self) -> int:
        """Freed memory that is resident: what the C library has and nobody else, less what there was of it right after
        freed memory was given back last.
        """
        return max(0, _unallocated_bytes() - self._unallocated_when_trimmed)

    def be_frugal(self) -> bool:
        """Freed memory goes back to the system, and from now on at once. False where that is so already."""
        if self._frugal:
            return False
        self._frugal = True
        map_large_tensors()
        release_freed_memory()
        release_code()
        _renew_data_limit(self.cap_bytes)
        return True

    def after_refusal(self) -> None:
        """Freed memory goes back; it may have been address space that was refused, and not memory."""
        release_freed_memory()
        _renew_data_limit(self.cap_bytes)

    def missing_bytes(self, coming_bytes: int) -> int:
        """How much more than the cap would be in use with `coming_bytes` more, all freed memory given back."""
        for release in (trim_heap, release_freed_memory):
            if rss_bytes() + coming_bytes > self.cap_bytes:
                release()
                _renew_data_limit(self.cap_bytes)
        return max(0, rss_bytes() + coming_bytes - self.cap_bytes)

    @contextmanager
    def kept(self) -> Iterator[None]:
        """For work that has no plan: while open, the hard limit is set, and a crossing is told at the end, or at once
        where the libraries alone are more: what they print when they are refused memory says nothing to anybody.
        """
        self.is_tight(0)
        with hard_limit(self.cap_bytes):
            yield
        self.is_tight(0)

    def require(self, coming_bytes: int, doing: str) -> None:
        """For work of a library that ends the process where it is refused memory, and asks nobody. Raises CapTooSmall,
        with the cap that is enough, where it would cross this one.
        """
        if missing := self.missing_bytes(coming_bytes):
            enough_mb = -(-(self.cap_bytes + missing) // (10 << 20)) * 10
            raise CapTooSmall(
                f"{doing} may need {format_size(coming_bytes)} beside the {format_size(rss_bytes())} in use, which is "
                f"more than the cap of {self._cap}; use --memory {enough_mb}MB"
            )

    def refusal(self, coming_bytes: int) -> MemoryCapError:
        return MemoryCapError(
            f"{format_size(rss_bytes())} of {self._cap} are in use and the next block may need "
            f"{format_size(coming_bytes)} more; {_ADVICE}"
        )

    @property
    def is_crossed(self) -> bool:
        return peak_rss_bytes() > max(self.cap_bytes, self._earlier_peak_bytes)

    @property
    def _cap(self) -> str:
        return format_size(self.cap_bytes)


OUT_OF_MEMORY = (MemoryCapError, MemoryError, RuntimeError, OSError, UserWarning)  # some: `is_out_of_memory` tells
_REFUSALS = (
    "can't allocate memory",  # torch
    "Cannot allocate memory",  # the system, in torch's words
    "not enough memory",
    "out of memory",
    "could not create a primitive",  # oneDNN
    "could not execute a primitive",
    "can't start new thread",  # it has a stack
)
_PRODUCT_REFUSED = r"\w+ failed, switching to .*could not (create|execute) a primitive(?! desc)"  # torch, of oneDNN


def is_out_of_memory(error: BaseException) -> bool:
    """torch raises a plain RuntimeError where it is refused memory, with words of its own or of others."""
    if isinstance(error, OSError):
        return error.errno == errno.ENOMEM
    return isinstance(error, MemoryError | MemoryCapError) or any(words in str(error) for words in _REFUSALS)


@contextmanager
def hard_limit(cap_bytes: int) -> Iterator[None]:
    """As `data_limit`, and an allocation that fails for it is turned into a MemoryCapError."""
    try:
        with data_limit(cap_bytes):
            yield
    except OUT_OF_MEMORY as error:
        if isinstance(error, MemoryCapError):
            raise
        if is_out_of_memory(error):
            raise MemoryCapError(
                f"an allocation would have crossed the cap of {format_size(cap_bytes)}; {_ADVICE}"
            ) from error
        raise


@contextmanager
def data_limit(cap_bytes: int) -> Iterator[None]:
    """While open, the system refuses memory that would lead far beyond the cap: RLIMIT_DATA, where there is one. It
    bounds private address space, so what is reserved and untouched now, pages of libraries that come in later and
    128 MB for stacks and the like are above the cap; the guard is the precise one, and lets this limit follow.
    """
    previous = _lower_data_limit(cap_bytes)
    try:
        with warnings.catch_warnings():
            # Refused memory for a product, oneDNN is not used again, and what comes in its place can be NaN.
            warnings.filterwarnings("error", _PRODUCT_REFUSED, UserWarning)
            yield
    finally:
        if previous is not None:
            import resource

            resource.setrlimit(resource.RLIMIT_DATA, previous)


@contextmanager
def room_to_reserve() -> Iterator[None]:
    """While open, the limit that `data_limit` has set is lifted: a model that is built without its weights reserves the
    address space of its embedding for a moment, 335 MB for a vocabulary of 262,144, and touches none of it.
    """
    if not sys.platform.startswith("linux"):
        yield
        return
    import resource

    soft, hard = resource.getrlimit(resource.RLIMIT_DATA)
    resource.setrlimit(resource.RLIMIT_DATA, (hard, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_DATA, (soft, hard))


def _unallocated_bytes() -> int:
    """Resident memory that nobody has of the C library: its freed memory, and what never came from it. 0 where the
    library does not count.
    """
    allocated = allocated_bytes()
    return 0 if allocated is None else status_bytes("RssAnon") - allocated


def _lower_data_limit(cap_bytes: int) -> tuple[int, int] | None:
    """Set the soft limit; returns the limits before, or None where the system has none."""
    if not sys.platform.startswith("linux"):
        return None
    import resource

    previous = resource.getrlimit(resource.RLIMIT_DATA)
    wanted = _wanted_limit(cap_bytes)
    soft, hard = previous
    if hard != resource.RLIM_INFINITY:
        wanted = min(wanted, hard)
    if soft != resource.RLIM_INFINITY and soft <= wanted:
        return None
    _set_soft_limit(wanted, hard)
    return previous


def _renew_data_limit(cap_bytes: int) -> None:
    """A limit that we have set goes up with what is reserved and not in memory by now, and with what the heap has
    given back, which stays reserved: or allocations would be refused although hardly anything is in memory.
    """
    if not sys.platform.startswith("linux"):
        return
    import resource

    soft, hard = resource.getrlimit(resource.RLIMIT_DATA)
    wanted = _wanted_limit(cap_bytes)
    if soft == _our_limit and soft < wanted and (hard == resource.RLIM_INFINITY or wanted <= hard):
        _set_soft_limit(wanted, hard)


def _set_soft_limit(soft: int, hard: int) -> None:
    import resource

    global _our_limit
    resource.setrlimit(resource.RLIMIT_DATA, (soft, hard))
    _our_limit = soft


def _wanted_limit(cap_bytes: int) -> int:
    in_use = status_bytes("RssAnon") + status_bytes("VmSwap")
    reserved = status_bytes("VmData") - in_use  # address space that is not in memory now
    return cap_bytes - status_bytes("RssFile") + max(0, reserved) + _UNTOUCHED_BYTES
