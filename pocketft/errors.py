"""Every error a person can cause or meet, in one tree, with its exit code.

    PocketftError            1   something failed while running
    ├── UsageError           2   the command line, a path or a combination of options is wrong
    │   ├── RecipeError      2   a recipe has unknown keys or values out of range (all problems at once)
    │   └── CapTooSmall      2   no plan fits the memory cap
    ├── DataError            1   the text cannot be used (empty, unreadable, of another kind)
    ├── ModelError           1   the base model is missing, damaged or of an unsupported kind
    ├── AdapterError         1   an adapter is damaged, incompatible or unsafe to read
    ├── CheckpointError      1   a run cannot be continued from what is on disk
    ├── StorageError         1   a full disk, a read-only folder
    ├── MemoryCapError       1   the guard stopped the run before the cap was crossed
    └── Interrupted        130   Ctrl-C or SIGTERM, after saving

A message is one line: what happened, where, and what to do next.
"""

from __future__ import annotations


class PocketftError(Exception):
    """Base of all errors shown to the person as one line."""

    exit_code = 1


class UsageError(PocketftError):
    exit_code = 2


class RecipeError(UsageError):
    """`problems` holds one line per mistake; the message joins them."""

    def __init__(self, problems: list[str], where: str = "recipe") -> None:
        self.problems = problems
        head = f"{where}: {len(problems)} problem{'s' if len(problems) != 1 else ''}"
        super().__init__("\n".join([head, *(f"  - {p}" for p in problems)]))


class CapTooSmall(UsageError):
    pass


class DataError(PocketftError):
    pass


class ModelError(PocketftError):
    pass


class AdapterError(PocketftError):
    pass


class CheckpointError(PocketftError):
    pass


class StorageError(PocketftError):
    pass


class MemoryCapError(PocketftError):
    pass


class Interrupted(PocketftError):
    exit_code = 130
