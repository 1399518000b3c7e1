"""Kill a toy run with SIGKILL at every change it makes to the disk, resume it, and compare with an undisturbed one.

Run as a program of its own: it forks children before any gradient was ever computed, which torch asks for. Prints how
many kills it made; fails with a traceback where a resumed run differs.
"""

from __future__ import annotations

import os
import shutil
import signal
import sys
from collections.abc import Callable
from functools import partial
from pathlib import Path

from tests.training.test_loop import assert_same_run
from tests.training.toy_run import ToyRun

SHORT = "training.epochs=1"
_CHANGES = ("replace", "unlink", "fsync")  # every atomic write passes through the first and the last


def in_child(work: Callable[[], object]) -> int:
    """Wait status of a child that does `work`."""
    child = os.fork()
    if child == 0:
        try:
            work()
        except BaseException as error:
            print(f"{type(error).__name__}: {error}", file=sys.stderr, flush=True)
            os._exit(1)
        os._exit(0)
    return os.waitpid(child, 0)[1]


def run_killed_at(path: Path, change: int) -> None:
    """Train, and be gone just before change number `change`."""
    made = 0

    def counted(original: Callable[..., object]) -> Callable[..., object]:
        def call(*arguments: object, **options: object) -> object:
            nonlocal made
            if made == change:
                os.kill(os.getpid(), signal.SIGKILL)
            made += 1
            return original(*arguments, **options)

        return call

    for name in _CHANGES:
        setattr(os, name, counted(getattr(os, name)))
    ToyRun(path, SHORT).run()


def resume(path: Path) -> None:
    """What a person does: go on where there is a run, start one where it was killed before there was any."""
    ToyRun(path, SHORT, resume=(path / "pocketft.json").exists()).run()
    half_written = [file for file in path.rglob("*") if file.suffix in (".tmp", ".old")]
    assert not half_written, half_written


def main(folder: Path, every: int) -> None:
    undisturbed = folder / "undisturbed"
    assert in_child(lambda: ToyRun(undisturbed, SHORT).run()) == 0
    path = folder / "run"
    change = kills = 0
    while in_child(partial(run_killed_at, path, change)) != 0:
        kills += 1
        assert in_child(lambda: resume(path)) == 0, f"cannot resume after a kill at change {change}"
        assert_same_run(path, undisturbed)
        shutil.rmtree(path)
        change += every
    print(kills)


if __name__ == "__main__":
    main(Path(sys.argv[1]), int(sys.argv[2]))
