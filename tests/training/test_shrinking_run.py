"""A whole run in which memory becomes short: it goes on in a smaller plan, says so, and learns the same."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from pocketft.memory import guard
from pocketft.training.run_folder import read_info
from pocketft.training.session import train
from tests.training.conftest import World
from tests.training.kept_log import read_log
from tests.training.test_session import request

MB = 1 << 20


def test_a_run_that_has_to_shrink_learns_what_the_undisturbed_one_learns(
    world: World, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """After step 3 almost all memory is taken; every measure from the third on frees a little."""
    train(request(world, tmp_path / "calm"), lambda event: None)
    cap = read_log(tmp_path / "calm" / "log.jsonl")[0]["cap_bytes"]
    used, told = 0, []

    def disturb(event: dict[str, Any]) -> None:
        nonlocal used
        if event["event"] == "step" and event["step"] == 3:
            used = cap - 6 * MB
        if event["event"] == "memory":
            told.append(event)
            if len(told) > 2:
                used -= 8 * MB

    monkeypatch.setattr(guard, "rss_bytes", lambda: used)
    train(request(world, tmp_path / "short", f"memory.max={cap}B"), disturb)

    assert len(told) >= 2 and all(event["cap"] == cap and event["rss"] > 0 for event in told)
    assert [event for event in read_log(tmp_path / "short" / "log.jsonl") if event["event"] == "memory"] == told
    assert shape(tmp_path / "short") != shape(tmp_path / "calm")
    calm, short = (steps(tmp_path / name) for name in ("calm", "short"))
    assert len(calm) == len(short)
    for one, other in zip(calm, short, strict=True):
        assert other["tokens"] == one["tokens"] and other["loss"] == pytest.approx(one["loss"], rel=2e-3)


def shape(run: Path) -> list[Any]:
    """What a plan decides; its predictions differ between two runs in one process anyway."""
    made = read_info(run)["plan"]
    return [made[name] for name in ("micro_batch", "residences", "kept_blocks", "loss_tiles", "spill_inputs")]


def steps(run: Path) -> list[dict[str, Any]]:
    return [event for event in read_log(run / "log.jsonl") if event["event"] == "step"]
