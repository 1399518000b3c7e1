"""Work done apart leaves its answer and nothing else; where it cannot be done there, it is done here."""

from __future__ import annotations

import multiprocessing
import os
import sys

import pytest

from pocketft.memory.apart import done_apart

pytestmark = pytest.mark.skipif(not sys.platform.startswith("linux"), reason="elsewhere all work is done here")
_touched: list[int] = []


def _touch() -> int:
    _touched.append(1)
    return os.getpid()


def test_the_answer_comes_from_another_process_and_nothing_of_it_stays() -> None:
    _touched.clear()
    assert done_apart(_touch) != os.getpid()
    assert _touched == [] and multiprocessing.active_children() == []


def test_a_copy_that_is_killed_is_replaced_by_work_done_here() -> None:
    here = os.getpid()

    def die_elsewhere() -> int:
        if os.getpid() != here:
            os._exit(9)
        return os.getpid()

    assert done_apart(die_elsewhere) == here


def test_an_error_comes_as_it_is() -> None:
    def fail() -> int:
        raise KeyError("of the work")

    with pytest.raises(KeyError, match="of the work"):
        done_apart(fail)


def test_without_room_for_a_process_the_work_is_done_here(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse() -> int:
        raise BlockingIOError("no more processes")

    monkeypatch.setattr(os, "fork", refuse)
    assert done_apart(os.getpid) == os.getpid()
