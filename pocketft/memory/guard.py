"""Keeps the promise while a run goes on: looks at the meter between blocks and stops the run before the cap is crossed.

Also asks the operating system for a hard limit where it has one, so that an allocation that would go too far fails as
a Python exception instead of the process being killed. Knows the meter and a plan's figures; nothing of models.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager

from pocketft.errors import MemoryCapError
from pocketft.memory.allocator import map_large_tensors, release_freed_memory
from pocketft.memory.meter import peak_rss_bytes, rss_bytes
from pocketft.memory.size import format_size

# Address space that is reserved and hardly touched counts against RLIMIT_DATA: stacks of threads that start later.
_UNTOUCHED_BYTES = 64 << 20
_NEAR = 0.95  # of the cap: a peak beyond it turns on frugality before the next one can be higher


class Guard:
    """`rise_bytes` is the most that resident memory grows between two looks."""

    def __init__(self, cap_bytes: int, rise_bytes: int) -> None:
        self.cap_bytes, self.rise_bytes = cap_bytes, rise_bytes
        self._frugal = False
        self._earlier_peak_bytes = peak_rss_bytes()  # of what this process did before, which is not to be undone

    def check(self) -> None:
        """Raises MemoryCapError if what comes next might not fit, or if the cap was crossed since the last look.

        Where little is left, freed memory goes back to the system first, and from then on at once.
        """
        peak = peak_rss_bytes()
        if peak > max(self.cap_bytes, self._earlier_peak_bytes):
            raise MemoryCapError(
                f"{format_size(peak)} were in use, more than the cap of {format_size(self.cap_bytes)}; give a larger "
                "--memory or a smaller --set data.max_seq_length"
            )
        if (
            peak <= max(_NEAR * self.cap_bytes, self._earlier_peak_bytes)
            and rss_bytes() + self.rise_bytes <= self.cap_bytes
        ):
            return
        if not self._frugal or rss_bytes() + self.rise_bytes > self.cap_bytes:
            self._frugal = True
            map_large_tensors()
            release_freed_memory()
        now = rss_bytes()
        if now + self.rise_bytes > self.cap_bytes:
            raise MemoryCapError(
                f"{format_size(now)} of {format_size(self.cap_bytes)} are in use and the next block may need "
                f"{format_size(self.rise_bytes)} more; give a larger --memory or a smaller --set data.max_seq_length"
            )


def is_out_of_memory(error: BaseException) -> bool:
    """torch raises a plain RuntimeError where it is refused memory, with words of its own or of oneDNN's."""
    words = ("can't allocate memory", "not enough memory", "out of memory", "could not create a primitive")
    return isinstance(error, MemoryError | MemoryCapError) or any(word in str(error) for word in words)


@contextmanager
def hard_limit(cap_bytes: int) -> Iterator[None]:
    """While open, private memory and the libraries' pages together cannot pass the cap by more than 64 MB: RLIMIT_DATA,
    where there is one.

    An allocation that fails for it is turned into a MemoryCapError.
    """
    previous = _lower_data_limit(cap_bytes)
    try:
        yield
    except (MemoryError, RuntimeError) as error:
        if is_out_of_memory(error):
            raise MemoryCapError(
                f"an allocation would have crossed the cap of {format_size(cap_bytes)}; give a larger --memory or a "
                "smaller --set data.max_seq_length"
            ) from error
        raise
    finally:
        if previous is not None:
            import resource

            resource.setrlimit(resource.RLIMIT_DATA, previous)


def _lower_data_limit(cap_bytes: int) -> tuple[int, int] | None:
    """Set the soft limit; returns the limits before, or None where the system has none."""
    if not sys.platform.startswith("linux"):
        return None
    import resource

    previous = resource.getrlimit(resource.RLIMIT_DATA)
    reserved = _status_bytes("VmData") - _status_bytes("RssAnon")  # address space not in memory now
    wanted = cap_bytes - _status_bytes("RssFile") + max(0, reserved) + _UNTOUCHED_BYTES
    soft, hard = previous
    if hard != resource.RLIM_INFINITY:
        wanted = min(wanted, hard)
    if soft != resource.RLIM_INFINITY and soft <= wanted:
        return None
    resource.setrlimit(resource.RLIMIT_DATA, (wanted, hard))
    return previous


def _status_bytes(field: str) -> int:
    with open("/proc/self/status", encoding="ascii", errors="replace") as lines:
        for line in lines:
            if line.startswith(field + ":"):
                return int(line.split()[1]) * 1024
    return 0
