"""The one place where an exception becomes a line on stderr and an exit code.

0  done    1  failed while running    2  bad usage or recipe    130  interrupted, after saving
"""

from __future__ import annotations

import errno
import os
import signal
import sys
import traceback
from collections.abc import Callable
from contextlib import suppress
from types import FrameType

from pocketft.errors import Interrupted, PocketftError, StorageError, UsageError

_LONGEST_MESSAGE = 1000


def exit_code_of(work: Callable[[], int | None]) -> int:
    """Run `work`; whatever it raises is reported on stderr and turned into the code that the shell sees."""
    try:
        _end_on_sigterm()
        code = work() or 0
        sys.stdout.flush()
        if code == Interrupted.exit_code:  # newer versions of typer end a Ctrl-C in silence
            _say("interrupted")
        return code
    except KeyboardInterrupt:
        _say("interrupted")
        return Interrupted.exit_code
    except BrokenPipeError:
        return _stdout_is_gone()
    except PocketftError as error:
        _say(str(error))
        return error.exit_code
    except MemoryError:
        _say("this machine has no more memory to give; close programs, or choose a smaller model or --memory")
        return PocketftError.exit_code
    except OSError as error:
        if error.errno == errno.EPIPE:
            return _stdout_is_gone()
        if error.errno in (errno.ENOSPC, errno.EDQUOT):
            _say(f"the disk is full{f' ({error.filename})' if error.filename else ''}; free some space and run again")
            return StorageError.exit_code
        return _unexpected(error)
    except Exception as error:
        # Typer's own complaints about the command line. Which class they are depends on its version, as newer ones
        # carry their own copy of click; that they can format themselves does not.
        if hasattr(error, "format_message"):
            context = getattr(error, "ctx", None)
            command = getattr(context, "command_path", "pocketft")
            _say(f"{error.format_message().rstrip('.')} (see `{command} --help`)")
            return UsageError.exit_code
        if type(error).__name__ == "Abort":  # what click makes of Ctrl-C
            _say("interrupted")
            return Interrupted.exit_code
        return _unexpected(error)


def _unexpected(error: Exception) -> int:
    if os.environ.get("POCKETFT_DEBUG"):
        traceback.print_exc()
    text = " ".join(f"{type(error).__name__}: {error}".split())
    if len(text) > _LONGEST_MESSAGE:
        text = text[:_LONGEST_MESSAGE] + " …"
    hint = "" if os.environ.get("POCKETFT_DEBUG") else " (set POCKETFT_DEBUG=1 to see where)"
    _say(f"unexpected {text}{hint}")
    return PocketftError.exit_code


def _say(message: str) -> None:
    with suppress(OSError, ValueError):  # stderr may be closed too
        print(f"error: {message}", file=sys.stderr, flush=True)


def _stdout_is_gone() -> int:
    """`pocketft runs | head`: nobody reads on, which is no failure worth a word."""
    with suppress(OSError, ValueError):
        # The interpreter flushes stdout once more at exit; let that go nowhere.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    return PocketftError.exit_code


def _end_on_sigterm() -> None:
    """SIGTERM unwinds like Ctrl-C, so that temporary files go and locks are freed; training saves first."""

    def unwind(number: int, frame: FrameType | None) -> None:
        raise KeyboardInterrupt

    with suppress(ValueError):  # only the main thread may; in another one, whoever started it decides
        signal.signal(signal.SIGTERM, unwind)
