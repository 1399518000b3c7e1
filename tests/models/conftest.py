"""A cache of its own for every test, and no hub."""

from __future__ import annotations

from pathlib import Path

import pytest


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    home = tmp_path / "cache"
    monkeypatch.setenv("POCKETFT_HOME", str(home))
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    return home
