"""Work done in a copy of this process: what it imports and allocates goes with the copy when it ends.

Running shapes alone brings in torch's symbolic mathematics, sympy with it: 50 MB that nothing afterwards has a use for
and that Python never gives back. Knows processes; nothing of what is worked out.
"""

from __future__ import annotations

import multiprocessing
import signal
import sys
from collections.abc import Callable
from contextlib import closing
from multiprocessing.connection import Connection
from typing import TypeVar

T = TypeVar("T")


def done_apart(work: Callable[[], T]) -> T:
    """What `work` returns, which must be picklable. Where a copy cannot be made, or fails, the work is done here; so
    its errors come as they are.

    Only on Linux: elsewhere a process is started anew, and importing torch again takes longer than the work.
    """
    if not sys.platform.startswith("linux"):
        return work()
    context = multiprocessing.get_context("fork")
    ours, theirs = context.Pipe(duplex=False)
    copy = context.Process(target=_answer, args=(work, theirs), daemon=True)
    try:
        copy.start()
    except (OSError, AssertionError):  # there is no room for one more, or this process is one that may not have any
        return work()
    finally:
        theirs.close()  # the copy has the other one; when it ends without a word, there is an end to read
    try:
        with closing(ours):
            answer: T = ours.recv()
            return answer
    except (EOFError, OSError):
        pass
    finally:
        copy.kill()  # what it had to say is said
        copy.join()
    return work()


def _answer(work: Callable[[], T], answers: Connection) -> None:
    import torch

    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is for the process that waits, which ends this one
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    torch.set_num_threads(1)  # the other threads were not copied
    try:
        answers.send(work())
    except Exception:
        answers.close()
