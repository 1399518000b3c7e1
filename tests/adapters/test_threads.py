"""Work in threads comes back in order, stops when it fails, and leaves torch as it was."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator

import pytest
import torch

from pocketft.adapters.threads import in_threads


@pytest.fixture(autouse=True)
def three_threads() -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(3)
    yield
    torch.set_num_threads(before)


def test_results_keep_the_order_of_their_items() -> None:
    def slow_first(item: int) -> tuple[int, int]:
        time.sleep(0.02 if item % 3 == 0 else 0)
        return item, torch.get_num_threads()

    assert list(in_threads(slow_first, range(20))) == [(item, 1) for item in range(20)]
    assert torch.get_num_threads() == 3


def test_no_more_is_done_ahead_than_there_are_threads() -> None:
    done: list[int] = []
    results = in_threads(lambda item: done.append(item), range(1000))
    next(results)
    time.sleep(0.05)
    assert len(done) <= 5
    results.close()  # type: ignore[attr-defined]
    assert torch.get_num_threads() == 3


def test_a_failure_is_raised_and_nothing_goes_on_behind_it() -> None:
    def fail(item: int) -> int:
        if item == 2:
            raise ValueError("two")
        return item

    with pytest.raises(ValueError, match="two"):
        list(in_threads(fail, range(10)))
    assert torch.get_num_threads() == 3
    assert not [thread for thread in threading.enumerate() if "ThreadPool" in thread.name]
