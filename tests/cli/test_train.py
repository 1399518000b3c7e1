"""train, plan and eval: what is asked of the session, and what goes to which stream."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest

from pocketft.cli.choices import default_output, parse_duration
from pocketft.errors import UsageError
from tests.cli.run_cli import Ran, Session

STEP = {
    "event": "step", "step": 1, "steps": 10, "epoch": 0, "loss": 2.5, "lr": 2e-4, "grad_norm": 1.0, "tokens": 2048,
    "tokens_per_s": 571.0, "rss": 500 << 20, "peak": 510 << 20, "cap": 700 << 20, "elapsed": 3.0, "remaining": 75.0,
}  # fmt: skip


def test_train_hands_every_flag_on(pocketft: Callable[..., Ran], session: Session, notes: str) -> None:
    ran = pocketft(
        "train", notes, "--model", "gemma-3-270m", "--memory", "700MB", "--recipe", "chat", "--set", "lora.r=4",
        "--set", "training.seed=1", "--seed", "7", "--output", "out", "--max-steps", "40", "--max-time", "1h30m",
        "--device", "cpu", "--force",
    )  # fmt: skip
    assert ran.code == 0, ran.err
    request = session.request
    assert request is not None
    assert request.data == (Path(notes),)
    assert (request.recipe.model.name, request.recipe.memory.max_bytes) == ("gemma-3-270m", 700 << 20)
    assert (request.recipe.lora.r, request.recipe.training.seed) == (4, 7)
    assert request.recipe.data.packing is False  # the chat recipe's own
    assert (request.output, request.max_steps, request.max_time_s) == (Path("out"), 40, 5400)
    assert (request.device, request.force, request.resume) == ("cpu", True, False)


def test_what_becomes_of_secrets_is_a_flag_of_train_and_plan(
    pocketft: Callable[..., Ran], session: Session, notes: str
) -> None:
    for words in (["train"], ["plan"]):
        assert pocketft(*words, notes, "--secrets", "refuse").code == 0
        assert session.request is not None and session.request.recipe.data.secrets == "refuse"
        assert pocketft(*words, notes).code == 0 and session.request.recipe.data.secrets == "redact"
    assert pocketft("train", notes, "--secrets", "shout").code == 2


def test_json_is_one_object_on_stdout_and_nothing_else(
    pocketft: Callable[..., Ran], session: Session, notes: str
) -> None:
    session.events = [{"event": "notice", "message": "reading", "level": "info"}, STEP]
    ran = pocketft("train", notes, "--json")
    result = json.loads(ran.out)
    assert set(result) == {
        "loss", "eval_loss", "base_eval_loss", "tokens", "steps", "tokens_per_s", "peak_bytes",
        "predicted_peak_bytes", "cap_bytes", "adapter",
    }  # fmt: skip
    assert ran.err.splitlines() == ["reading", "step 1/10 · loss 2.5000 · 571 tokens/s · 500 MB of 700 MB · 1:15 left"]


def test_without_json_the_result_is_for_people(pocketft: Callable[..., Ran], session: Session, notes: str) -> None:
    ran = pocketft("train", notes)
    assert "held-out loss  2.5000  (base 3.0000)" in ran.out
    assert "predicted 610 MB · measured 600 MB · cap 700 MB" in ran.out
    assert "pocketft chat runs/x" in ran.out


@pytest.mark.parametrize("words", [["plan"], ["train", "--dry-run"]])
def test_a_plan_trains_nothing(pocketft: Callable[..., Ran], session: Session, notes: str, words: list[str]) -> None:
    ran = pocketft(*words, notes, "--json")
    assert ran.code == 0
    assert session.calls == ["plan"]
    assert json.loads(ran.out)["predicted_peak_bytes"] == 610 << 20
    shown = pocketft(*words, notes).out
    assert "610 MB of 700 MB" in shown
    assert "not       all weights dense: needs --memory 930MB" in shown
    assert "256 MB more would give about 650 tokens/s: 30 dense blocks" in shown


def test_eval_shows_base_against_adapter(pocketft: Callable[..., Ran], session: Session, notes: str) -> None:
    ran = pocketft("eval", notes, "--data", notes, "--json")
    assert set(json.loads(ran.out)) == {
        "base_loss", "loss", "base_perplexity", "perplexity", "reference_base_loss", "reference_loss",
    }  # fmt: skip
    assert "-0.5000" in pocketft("eval", notes, "--data", notes).out


def test_missing_text_is_named_before_anything_is_loaded(pocketft: Callable[..., Ran], notes: str) -> None:
    ran = pocketft("train", notes, "not there")
    assert ran.code == 2
    assert "no such file or folder: not there" in ran.err


def test_every_recipe_mistake_comes_at_once(pocketft: Callable[..., Ran], session: Session, notes: str) -> None:
    ran = pocketft(
        "train", notes, "--set", "lora.rank=1", "--set", "training.epochs=0", "--memory", "lots", "--seed", "-1"
    )
    assert ran.code == 2
    assert ran.err.startswith("error: recipe: 4 problems\n")
    assert session.request is None


def test_a_resumed_run_keeps_its_recipe(pocketft: Callable[..., Ran], session: Session, notes: str) -> None:
    Path("out").mkdir()
    Path("out/recipe.yaml").write_text("lora: {r: 3}\n")
    assert pocketft("train", notes, "--resume", "--output", "out", "--set", "training.epochs=2").code == 0
    assert session.request is not None
    assert (session.request.recipe.lora.r, session.request.recipe.training.epochs) == (3, 2)


def test_a_resumed_run_is_found_in_the_home_folder(
    pocketft: Callable[..., Ran], session: Session, notes: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HOME", str(Path.cwd()))
    Path("out").mkdir()
    Path("out/recipe.yaml").write_text("lora: {r: 3}\n")
    assert pocketft("train", notes, "--resume", "--output=~/out").code == 0
    assert session.request is not None
    assert (session.request.recipe.lora.r, session.request.output) == (3, Path("out").absolute())


@pytest.mark.parametrize(
    ("words", "part"),
    [
        (["--resume"], "name its folder with --output"),
        (["--resume", "--force", "--output", "x"], "give one of the two"),
        (["--max-time", "soon"], "write for example 90s"),
    ],
)
def test_combinations_that_mean_nothing_are_refused(
    pocketft: Callable[..., Ran], session: Session, notes: str, words: list[str], part: str
) -> None:
    ran = pocketft("train", notes, *words)
    assert ran.code == 2 and part in ran.err
    assert session.request is None


@pytest.mark.parametrize(
    ("text", "seconds"), [("90s", 90), ("30m", 1800), ("30min", 1800), ("1h30m", 5400), ("1.5h", 5400), ("1h 5s", 3605)]
)
def test_times_are_read_as_people_write_them(text: str, seconds: float) -> None:
    assert parse_duration(text) == seconds


@pytest.mark.parametrize("text", ["", "30", "0s", "-5m", "5m1h", "1d"])
def test_what_is_no_time_is_refused(text: str) -> None:
    with pytest.raises(UsageError):
        parse_duration(text)


def test_default_outputs_are_named_after_the_text_and_never_collide(tmp_path: Path) -> None:
    first = default_output(["/home/me/My Nötes/"], tmp_path)
    assert first.name.startswith("My-Nötes-")
    seen = set()
    for _ in range(5):
        path = default_output(["a/b.txt"], tmp_path)
        path.mkdir()
        seen.add(path)
    assert len(seen) == 5
    assert default_output(["/"], tmp_path).name.startswith("run-")
