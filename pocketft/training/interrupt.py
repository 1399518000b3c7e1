"""Ctrl-C and SIGTERM: the first asks the loop to finish its step and save, the second stops at once.

Knows signals, not what is saved.
"""

from __future__ import annotations

import signal
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from types import FrameType

from pocketft.errors import Interrupted


class StopRequest:
    """Whether somebody asked to stop. Until `patient` nothing is worth finishing: the first ask stops at once."""

    def __init__(self) -> None:
        self.requested = False
        self.patient = False

    def handle(self, number: int, frame: FrameType | None) -> None:
        # KeyboardInterrupt, not an Exception: nothing on the way up takes it for an ordinary error and goes on
        if self.requested or not self.patient:
            self.requested = True
            raise KeyboardInterrupt
        self.requested = True
        with suppress(OSError, ValueError):  # nobody may be there to read it
            sys.stderr.write("\nstopping after this step; once more to stop at once\n")
            sys.stderr.flush()


@contextmanager
def stop_on_signals() -> Iterator[StopRequest]:
    """Take SIGINT and SIGTERM over for the time of the context; a stop at once leaves it as Interrupted.

    Outside the main thread, where Python delivers no signals, the request is never set.
    """
    request = StopRequest()
    signals = (signal.SIGINT, signal.SIGTERM) if threading.current_thread() is threading.main_thread() else ()
    before = {number: signal.signal(number, request.handle) for number in signals}
    try:
        yield request
    except KeyboardInterrupt:
        raise Interrupted(
            "stopped at once without saving; --resume continues from the last checkpoint, if there is one"
        ) from None
    finally:
        for number, handler in before.items():
            signal.signal(number, signal.SIG_DFL if handler is None else handler)
