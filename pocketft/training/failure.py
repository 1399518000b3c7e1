"""A run that fails between two updates: which failures leave its last whole step worth saving, and how they are told.

Knows errors, nothing of what is saved.
"""

from __future__ import annotations

from pocketft.errors import Interrupted, MemoryCapError, PocketftError
from pocketft.memory.guard import is_out_of_memory


def is_foreseen(error: BaseException) -> bool:
    """Whether it is one that a person can do something about and then go on: anything else is a fault of the program.

    After an interruption everything is saved already.
    """
    return (isinstance(error, PocketftError) and not isinstance(error, Interrupted)) or is_out_of_memory(error)


def without_traceback(error: BaseException) -> PocketftError:
    """The same failure without the frames that it came through: all tensors of the step that failed hang on them."""
    return type(error)(str(error)) if isinstance(error, PocketftError) else MemoryCapError("out of memory")


def with_advice(failure: PocketftError, saved_step: int) -> PocketftError:
    """The failure as the person is told it; with `saved_step` 0 nothing is saved.

    A run that is to go on keeps the length of its rows, so only a run without a checkpoint is advised to shorten them.
    """
    out_of_memory = isinstance(failure, MemoryCapError)
    if saved_step:
        larger = " and a larger --memory" if out_of_memory else ""
        return type(failure)(f"{failure}; step {saved_step} is saved, continue from it with --resume{larger}")
    if out_of_memory and "--memory" not in str(failure):
        return MemoryCapError(f"{failure}; give a larger --memory or a smaller --set data.max_seq_length")
    return failure
