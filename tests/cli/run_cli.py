"""How the tests run the program: in this process, with stand-ins for the rooms below."""

from __future__ import annotations

import sys
import types
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from pocketft.cli.app import run


@dataclass(frozen=True)
class Ran:
    code: int
    out: str
    err: str


@pytest.fixture
def pocketft(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Callable[..., Ran]:
    """Call with the words of a command line; the working folder is empty."""
    monkeypatch.chdir(tmp_path)

    def call(*words: str) -> Ran:
        with pytest.raises(SystemExit) as left:
            run(words)
        captured = capsys.readouterr()
        assert isinstance(left.value.code, int)
        return Ran(left.value.code, captured.out, captured.err)

    return call


@dataclass(frozen=True)
class Request:
    data: tuple[Path, ...]
    recipe: Any
    output: Path
    resume: bool
    force: bool
    max_steps: int | None
    max_time_s: float | None
    device: str


@dataclass(frozen=True)
class Result:
    loss: float = 2.25
    eval_loss: float | None = 2.5
    base_eval_loss: float | None = 3.0
    tokens: int = 20_000
    steps: int = 10
    tokens_per_s: float = 571.4
    peak_bytes: int = 600 << 20
    predicted_peak_bytes: int = 610 << 20
    cap_bytes: int = 700 << 20
    adapter: str = "runs/x"


@dataclass(frozen=True)
class Plan:
    def to_json(self) -> dict[str, Any]:
        return {
            "predicted_peak_bytes": 610 << 20,
            "cap_bytes": 700 << 20,
            "tokens_per_s": 571.0,
            "alternatives": [{"way": "all weights dense", "fits": False, "reason": "needs --memory 930MB"}],
            "with_more": {"more_bytes": 256 << 20, "tokens_per_s": 650.0, "choice": "30 dense blocks"},
        }


class Session(types.ModuleType):
    """In the place of `pocketft.training.session`: remembers the request, reports `events`, returns or raises."""

    TrainRequest = Request

    def __init__(self) -> None:
        super().__init__("pocketft.training.session")
        self.request: Request | None = None
        self.calls: list[str] = []
        self.events: Sequence[dict[str, Any]] = ()
        self.raises: BaseException | None = None
        self.result = Result()

    def _work(self, name: str, report: Callable[[dict[str, Any]], None]) -> None:
        self.calls.append(name)
        for event in self.events:
            report(event)
        if self.raises is not None:
            raise self.raises

    def train(self, request: Request, report: Callable[[dict[str, Any]], None]) -> Result:
        self.request = request
        self._work("train", report)
        return self.result

    def plan(self, request: Request, report: Callable[[dict[str, Any]], None]) -> Plan:
        self.request = request
        self._work("plan", report)
        return Plan()

    def evaluate(
        self, run: Path, data: tuple[Path, ...], report: Callable[[dict[str, Any]], None], memory: str | None
    ) -> Any:
        self._work("evaluate", report)
        return EvalResult()


@dataclass(frozen=True)
class EvalResult:
    base_loss: float = 3.0
    loss: float = 2.5
    base_perplexity: float = 20.1
    perplexity: float = 12.2
    reference_base_loss: float = 3.1
    reference_loss: float = 3.2


@pytest.fixture
def session(monkeypatch: pytest.MonkeyPatch) -> Session:
    stand_in = Session()
    monkeypatch.setitem(sys.modules, "pocketft.training.session", stand_in)
    return stand_in


@pytest.fixture
def notes(tmp_path: Path) -> str:
    folder = tmp_path / "my notes"
    folder.mkdir()
    (folder / "a.txt").write_text("Hello.")
    return str(folder)
