"""The base that an adapter records, found again: by its file's hash before any name."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from pocketft.models.catalog import catalog
from pocketft.models.location import locate
from pocketft.models.recorded import find_recorded

SMALL = catalog()["smollm2-135m"]


@pytest.fixture(autouse=True)
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("POCKETFT_HOME", str(tmp_path))
    return tmp_path


def prepare(home: Path, name: str, sha256: str) -> None:
    folder = home / "stores" / sha256[:8]
    folder.mkdir(parents=True)
    info = {"name": name, "quantization": "bf16", "artifact_sha256": sha256}
    (folder / "index.json").write_text(json.dumps({"info": info}))


def test_the_very_file_prepared_here_counts_before_the_name(home: Path) -> None:
    here = home / "mine.gguf"
    here.touch()
    prepare(home, str(here), "e" * 64)
    assert find_recorded("somebody's name", "e" * 64) == str(here)
    here.unlink()
    assert find_recorded("somebody's name", "e" * 64) == "mine.gguf"
    assert locate("mine.gguf").path == here


def test_a_catalog_model_is_known_by_its_hash(home: Path) -> None:
    assert find_recorded("SmolLM2-135M-Instruct.Q4_1", SMALL.sha256) == "smollm2-135m"
    assert find_recorded("smollm2-135m", SMALL.sha256) == "smollm2-135m"


def test_a_repository_gets_the_hubs_prefix_and_revision(home: Path) -> None:
    assert find_recorded("owner/name", None) == "hf:owner/name"
    assert find_recorded("owner/name", "d" * 64, "abc") == "hf:owner/name@abc"
    prepare(home, "hf:owner/name", "d" * 64)
    assert find_recorded("owner/name", "c" * 64, "abc") == "hf:owner/name"


def test_paths_and_bare_names_stay(home: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert find_recorded("my-model") == "my-model"
    assert find_recorded("./models/one") == "./models/one"
    (tmp_path / "models" / "one").mkdir(parents=True)
    monkeypatch.chdir(tmp_path)
    assert find_recorded("models/one") == "models/one"
