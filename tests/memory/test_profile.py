"""The machine's profile: measured quickly, cached, and of this machine."""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path

import pytest

from pocketft.memory.processor import processor
from pocketft.memory.profile import MachineProfile, machine_profile


@pytest.fixture
def measured(tmp_path: Path) -> MachineProfile:
    return machine_profile(tmp_path)


def test_every_figure_is_one(measured: MachineProfile) -> None:
    assert all(value > 0 for value in asdict(measured).values())
    assert measured.compute_dtype in ("bfloat16", "float32")


def test_it_is_measured_once_and_again_when_asked(
    measured: MachineProfile, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    other = MachineProfile(2, 1.0, 2.0, 3.0, 4.0, 5.0, 6.0)
    monkeypatch.setattr("pocketft.memory.profile._measure", lambda folder: other)
    assert machine_profile(tmp_path) == measured
    assert machine_profile(tmp_path, refresh=True) == other == machine_profile(tmp_path)


@pytest.mark.parametrize(
    "elsewhere", [("Another CPU", frozenset({"avx2"})), (processor()[0], processor()[1] | {"bf16_of_tomorrow"})]
)
def test_a_cache_that_comes_from_another_processor_is_not_believed(
    measured: MachineProfile, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, elsewhere: tuple[str, frozenset[str]]
) -> None:
    other = MachineProfile(2, 1.0, 2.0, 3.0, 4.0, 5.0, 6.0)
    monkeypatch.setattr("pocketft.memory.profile._measure", lambda folder: other)
    monkeypatch.setattr("pocketft.memory.profile.processor", lambda: elsewhere)
    assert machine_profile(tmp_path) == other


def test_a_damaged_cache_is_measured_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    other = MachineProfile(2, 1.0, 2.0, 3.0, 4.0, 5.0, 6.0)
    monkeypatch.setattr("pocketft.memory.profile._measure", lambda folder: other)
    for damaged in ("", "[]", "null", json.dumps({"key": 1}), json.dumps({"key": "x", "profile": {"cores": 2}})):
        (tmp_path / "machine.json").write_text(damaged, encoding="utf-8")
        assert machine_profile(tmp_path) == other
