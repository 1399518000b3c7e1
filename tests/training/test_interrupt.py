"""One Ctrl-C must let a step finish, two must not wait for anything, and the handlers must not outlive the run."""

from __future__ import annotations

import os
import signal
import threading

import pytest

from pocketft.errors import Interrupted
from pocketft.training.interrupt import stop_on_signals


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_the_first_signal_asks_and_the_second_stops_at_once(number: signal.Signals) -> None:
    before = signal.getsignal(number)
    reached = []
    with pytest.raises(Interrupted, match="at once"), stop_on_signals() as stop:
        stop.patient = True
        os.kill(os.getpid(), number)
        assert stop.requested
        reached.append("after the first")
        os.kill(os.getpid(), number)
        reached.append("after the second")
    assert reached == ["after the first"]
    assert signal.getsignal(number) is before


def test_while_nothing_is_worth_finishing_the_first_signal_stops_at_once() -> None:
    with pytest.raises(Interrupted), stop_on_signals():
        os.kill(os.getpid(), signal.SIGTERM)


def test_without_a_signal_nothing_changes() -> None:
    before = signal.getsignal(signal.SIGINT)
    with stop_on_signals() as stop:
        assert signal.getsignal(signal.SIGINT) is not before
    assert not stop.requested and signal.getsignal(signal.SIGINT) is before


def test_it_works_where_python_delivers_no_signals() -> None:
    seen = []

    def run() -> None:
        with stop_on_signals() as stop:
            seen.append(stop.requested)

    thread = threading.Thread(target=run)
    thread.start()
    thread.join()
    assert seen == [False]
