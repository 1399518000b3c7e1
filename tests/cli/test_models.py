"""models, data and doctor: what they ask of the rooms below and how they show it."""

from __future__ import annotations

import json
import sys
import types
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from pocketft.errors import ModelError
from tests.cli.run_cli import Ran

MB = 1 << 20


@pytest.fixture
def shelf(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> list[tuple[Any, ...]]:
    """An empty cache, and a `pull` and `remove` that only remember what they were asked."""
    import pocketft.models as models

    calls: list[tuple[Any, ...]] = []

    def pull(name: str, quantization: str, report: Callable[[dict[str, Any]], None], cap: int) -> dict[str, Any]:
        calls.append(("pull", name, quantization, cap))
        report({"event": "progress", "task": "fetching", "done": 100 * MB, "total": 100 * MB, "unit": "B"})
        return {"name": name, "prepared_bytes": 92 * MB, "path": None}

    def remove(name: str) -> int:
        calls.append(("remove", name))
        return 92 * MB

    monkeypatch.setenv("POCKETFT_HOME", str(tmp_path / "cache"))
    monkeypatch.setattr(models, "pull", pull)
    monkeypatch.setattr(models, "remove", remove)
    return calls


@pytest.mark.parametrize("words", [["models"], ["models", "list"]])
def test_bare_models_lists_the_catalog(
    pocketft: Callable[..., Ran], shelf: list[tuple[Any, ...]], words: list[str]
) -> None:
    listed = json.loads(pocketft(*words, "--json").out)
    assert [model["name"] for model in listed if model["default"]] == ["smollm2-135m"]
    assert not any(model["cached"] for model in listed)
    shown = pocketft(*words).out
    assert "smollm2-135m *" in shown and "Apache-2.0" in shown and "93.8 MB" in shown


def test_pull_shows_progress_and_what_it_got(pocketft: Callable[..., Ran], shelf: list[tuple[Any, ...]]) -> None:
    ran = pocketft("models", "pull", "smollm2-135m", "--memory", "400MB")
    assert shelf == [("pull", "smollm2-135m", "auto", 400 * MB)]
    assert "fetching: 100 MB of 100 MB (100%)" in ran.err
    assert "prepared  92 MB" in ran.out
    assert (
        json.loads(pocketft("models", "pull", "x", "--quantization", "nf4", "--json").out)["prepared_bytes"] == 92 * MB
    )
    assert pocketft("models", "pull", "x", "--quantization", "q3").code == 2


def test_show_rm_and_path(pocketft: Callable[..., Ran], shelf: list[tuple[Any, ...]]) -> None:
    shown = json.loads(pocketft("models", "show", "gemma-3-270m", "--json").out)
    assert "Gemma" in shown["licence"]
    assert "Gemma Terms of Use" in pocketft("models", "show", "gemma-3-270m").out
    assert "92 MB freed" in pocketft("models", "rm", "gemma-3-270m").err
    missing = pocketft("models", "path", "smollm2-135m")
    assert missing.code == ModelError.exit_code and "pocketft models pull" in missing.err and missing.out == ""


def test_data_lists_the_readers_by_what_they_read(pocketft: Callable[..., Ran]) -> None:
    kinds = {kind["kind"]: kind["what"] for kind in json.loads(pocketft("data", "--json").out)}
    assert {"text", "markdown", "jsonl"} <= set(kinds)
    assert all(len(what) > 20 for what in kinds.values())


def test_doctor_says_what_the_machine_is_and_what_is_missing(
    pocketft: Callable[..., Ran], shelf: list[tuple[Any, ...]], monkeypatch: pytest.MonkeyPatch
) -> None:
    @dataclass(frozen=True)
    class Profile:
        cores: int = 2
        bf16_gflops: float = 650.4
        compute_dtype = "bfloat16"

    profile = types.ModuleType("pocketft.memory.profile")
    profile.machine_profile = lambda cache_folder, refresh: Profile()  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "pocketft.memory.profile", profile)
    monkeypatch.setattr("pocketft.cli.doctor._accelerators", list)
    monkeypatch.setattr("pocketft.cli.doctor._version", lambda name: None if name == "peft" else "1.0")
    monkeypatch.setattr("pocketft.memory.meter.available_bytes", lambda: 300 * MB)
    found = json.loads(pocketft("doctor", "--json").out)
    assert found["machine"]["memory_bytes"] > 0
    assert found["speed"] == {"cores": 2, "bf16_gflops": 650.4, "compute_dtype": "bfloat16"}
    assert found["cache"]["size_bytes"] == 0
    assert any("pip install peft" in line for line in found["missing"])
    assert any("300 MB is free" in line for line in found["missing"])
    shown = pocketft("doctor").out
    for heading in ("machine", "speed", "versions", "cache", "advice", "missing"):
        assert f"{heading}\n" in shown
