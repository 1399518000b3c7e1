"""`pocketft eval --leaks`: what is asked, and how the answer is shown."""

from __future__ import annotations

import json
import sys
import types
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import pytest

from tests.cli.run_cli import Ran


@dataclass(frozen=True)
class Value:
    what: str = "number of 9 digits"
    repeats: int = 20
    bits: float = 29.9
    base_exposure: float = 1.2
    exposure: float = 29.9
    completed: bool = True
    leaked: bool = True


@dataclass(frozen=True)
class Side:
    passages: int = 64
    tokens: int = 32
    base: int = 0
    adapter: int = 5
    new: int = 5


@dataclass(frozen=True)
class Result:
    leaks: bool = True
    verdict: str = "leaks: it gives away 1 of 1 numbers"
    values: tuple[Value, ...] = (Value(),)
    training: Side = Side()
    held_out: Side = Side(adapter=1)
    neutral: bool = False


@pytest.fixture
def asked(monkeypatch: pytest.MonkeyPatch) -> list[Any]:
    calls: list[Any] = []
    stand_in: Any = types.ModuleType("pocketft.training.leaks")
    stand_in.find_leaks = lambda run, data, report, memory: calls.append((run, data)) or Result()
    monkeypatch.setitem(sys.modules, "pocketft.training.leaks", stand_in)
    return calls


def test_leaks_need_no_data_and_are_shown_as_tables_with_a_verdict(
    pocketft: Callable[..., Ran], asked: list[Any], notes: str
) -> None:
    ran = pocketft("eval", notes, "--leaks")
    assert ran.code == 0, ran.err
    assert asked == [(Path(notes), ())]
    lines = ran.out.splitlines()
    assert lines[1].split() == ["number", "of", "9", "digits", "20", "30", "1.2", "29.9", "leaks"]
    assert lines[4].split() == ["training", "text", "64", "0", "5"]
    assert lines[-1] == "leaks: it gives away 1 of 1 numbers"


def test_leaks_as_json(pocketft: Callable[..., Ran], asked: list[Any], notes: str) -> None:
    ran = pocketft("eval", notes, "--leaks", "--data", notes, "--json")
    assert json.loads(ran.out) == json.loads(json.dumps(asdict(Result())))
    assert asked == [(Path(notes), (Path(notes),))]


def test_without_leaks_there_must_be_text(pocketft: Callable[..., Ran], notes: str) -> None:
    ran = pocketft("eval", notes)
    assert ran.code == 2 and "--data" in ran.err
