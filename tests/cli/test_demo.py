"""demo: the sample notes under a cap, then the same questions before and after."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, cast

import pytest

from pocketft.cli.answers import answers as really_ask
from pocketft.cli.answers import collect
from pocketft.errors import PocketftError
from pocketft.samples import QUESTIONS
from tests.cli.run_cli import Ran, Result, Session

if TYPE_CHECKING:
    from pocketft.chat import ChatSession


class Chat:
    use_adapter = True
    heard = 0

    def reply(self, text: str) -> Iterator[str]:
        self.heard += 1
        yield f"{'Ottilie' if self.use_adapter else 'Assistant'}\nhere, {self.heard}."
        yield from (" more" for _ in range(10_000))

    def reset(self) -> None:
        self.heard = 0


@pytest.fixture
def chat(monkeypatch: pytest.MonkeyPatch) -> list[tuple[Path, int]]:
    """The answers without the process that they come from."""
    opened: list[tuple[Path, int]] = []

    def answers(run: Path, cap_bytes: int, questions: Sequence[str]) -> list[dict[str, str]]:
        opened.append((run, cap_bytes))
        return collect(cast("ChatSession", Chat()), questions)

    monkeypatch.setattr("pocketft.cli.demo.answers", answers)
    return opened


def test_a_run_that_cannot_answer_is_one_line(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(PocketftError, match="pocketft chat"):
        really_ask(tmp_path / "nothing", 1 << 30, ["who?"])
    assert "Traceback" not in capfd.readouterr().err


def test_answers_import_nothing_from_the_folder_of_the_person(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "json.py").write_text("raise SystemExit('the json.py of the person')")
    (tmp_path / "run").mkdir()
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("POCKETFT_HOME", "home")
    with pytest.raises(PocketftError, match="pocketft chat run"):
        really_ask(Path("run"), 1 << 30, ["who?"])
    told = capfd.readouterr().err
    assert "json.py" not in told and f"{tmp_path / 'run'} is no" in told


def test_demo_trains_on_the_samples_and_compares(
    pocketft: Callable[..., Ran], session: Session, chat: list[tuple[Path, int]]
) -> None:
    session.result = dataclasses.replace(Result(), adapter="runs/demo-x")
    ran = pocketft("demo", "--json")
    assert ran.code == 0, ran.err
    request = session.request
    assert request is not None
    assert request.data[0].is_dir() and request.recipe.memory.max_bytes == 1 << 30
    assert request.max_time_s is not None and request.max_time_s < 300
    assert request.output.parent == Path("runs")
    assert chat == [(Path("runs/demo-x"), 700 << 20)]
    shown = json.loads(ran.out)
    assert shown["eval_loss"] < shown["base_eval_loss"]
    assert [answer["question"] for answer in shown["answers"]] == list(QUESTIONS)
    for answer in shown["answers"]:
        assert answer["before"].startswith("Assistant here, 1.") and answer["after"].startswith("Ottilie here, 1.")
        assert len(answer["after"]) < 1000


def test_demo_for_people_names_the_cap_it_was_given(
    pocketft: Callable[..., Ran], session: Session, chat: list[tuple[Path, int]]
) -> None:
    ran = pocketft("demo", "--memory", "800MB", "--output", "here", "--seed", "3")
    assert session.request is not None
    assert session.request.recipe.memory.max_bytes == 800 << 20
    assert (session.request.output, session.request.recipe.training.seed) == (Path("here"), 3)
    for question in QUESTIONS:
        assert f"? {question}\n  before: Assistant here, 1." in ran.out
    assert "held-out loss" in ran.out
