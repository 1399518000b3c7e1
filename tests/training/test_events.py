"""The log must survive a kill at any byte, and a resumed run must not tell a step twice."""

from __future__ import annotations

from pathlib import Path

import pytest

from pocketft.errors import UsageError
from pocketft.training.events import EventLog, truncate_log
from tests.training.kept_log import read_log


def step(number: int) -> dict[str, object]:
    return {"event": "step", "step": number, "loss": 1.0 / number}


def filled(path: Path, steps: int) -> Path:
    with EventLog(path) as log:
        log.write({"event": "plan", "predicted_peak_bytes": 1})
        for number in range(1, steps + 1):
            log.write(step(number))
            if number % 2 == 0:
                log.write({"event": "checkpoint", "step": number, "path": f"checkpoints/checkpoint-{number}"})
    return path


def test_what_may_name_files_of_the_person_is_not_kept(tmp_path: Path) -> None:
    with EventLog(tmp_path / "log.jsonl") as log:
        log.write({"event": "notice", "message": "secret.txt:3 is no JSON", "level": "warning"})
        log.write({"event": "progress", "task": "reading", "done": 1, "total": 2, "unit": "files"})
        log.write(step(1))
    assert [event["event"] for event in read_log(tmp_path / "log.jsonl")] == ["step"]


def test_a_line_is_on_disk_when_it_is_written(tmp_path: Path) -> None:
    with EventLog(tmp_path / "log.jsonl") as log:
        log.write(step(1))
        assert read_log(tmp_path / "log.jsonl") == [step(1)]


def test_truncating_keeps_what_happened_up_to_the_checkpoint(tmp_path: Path) -> None:
    path = filled(tmp_path / "log.jsonl", 5)
    truncate_log(path, 4, 4)
    kept = read_log(path)
    assert [event.get("step") for event in kept] == [None, 1, 2, 2, 3, 4, 4]
    with EventLog(path) as log:
        log.write(step(5))
    assert read_log(path)[-1] == step(5)


@pytest.mark.parametrize("torn", [b'{"event": "st', b'{"event": "step", "step": 6}', b"\xff\xfe\n", b"[]\n"])
def test_a_torn_last_line_is_dropped(tmp_path: Path, torn: bytes) -> None:
    path = filled(tmp_path / "log.jsonl", 5)
    whole = path.read_bytes()
    path.write_bytes(whole + torn)
    truncate_log(path, 99, 99)
    assert path.read_bytes() == whole


def test_a_finished_run_that_goes_on_is_no_longer_done(tmp_path: Path) -> None:
    path = filled(tmp_path / "log.jsonl", 4)
    with EventLog(path) as log:
        log.write({"event": "done", "loss": 0.1})
    truncate_log(path, 4, 4)
    assert read_log(path)[-1]["event"] == "checkpoint"


def test_an_evaluation_that_the_checkpoint_does_not_know_is_dropped(tmp_path: Path) -> None:
    path = filled(tmp_path / "log.jsonl", 4)
    with EventLog(path) as log:
        log.write({"event": "eval", "step": 4, "eval_loss": 1.0})
    truncate_log(path, 4, 2)
    assert read_log(path)[-1]["event"] == "checkpoint"


def test_a_missing_log_is_empty(tmp_path: Path) -> None:
    truncate_log(tmp_path / "log.jsonl", 3, 3)
    assert read_log(tmp_path / "log.jsonl") == []
    assert not (tmp_path / "log.jsonl").exists()


def test_two_processes_cannot_write_one_run(tmp_path: Path) -> None:
    pytest.importorskip("fcntl")
    with EventLog(tmp_path / "log.jsonl"), pytest.raises(UsageError, match="another pocketft"):
        EventLog(tmp_path / "log.jsonl")
    EventLog(tmp_path / "log.jsonl").close()
