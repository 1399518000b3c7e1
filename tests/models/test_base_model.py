"""From a name to an open base model: prepared once, again when stale, and errors that say what to do."""

from __future__ import annotations

import hashlib
import os
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from pocketft.errors import ModelError, UsageError
from pocketft.models import base_model, location
from pocketft.models.base_model import load_config, load_tokenizer, resolve_base
from pocketft.models.catalog import CatalogEntry, catalog, default_name
from pocketft.models.prepare import prepare
from tests.models.in_process import damaged_blocks, values
from tests.tiny_models import save_tiny_folder, write_tiny_gguf


@pytest.fixture
def jobs(monkeypatch: pytest.MonkeyPatch) -> list[dict[str, Any]]:
    """Preparation inside this process; the list tells what was prepared."""
    done: list[dict[str, Any]] = []

    def run(job: dict[str, Any], report: Any) -> None:
        done.append(job)
        prepare(job, report)

    monkeypatch.setattr(base_model, "run_preparation", run)
    return done


@pytest.fixture
def gguf(tmp_path: Path) -> Path:
    return write_tiny_gguf(tmp_path / "tiny.gguf")


def test_a_gguf_is_prepared_in_another_process_and_opened(gguf: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    events: list[dict[str, Any]] = []
    base = resolve_base(str(gguf), "auto", events.append)
    assert (base.name, base.quantization, base.architecture) == (str(gguf), "gguf", "llama")
    assert base.artifact_sha256 == hashlib.sha256(gguf.read_bytes()).hexdigest()
    assert {event["event"] for event in events} == {"notice", "progress"}
    assert events[-1]["done"] == events[-1]["total"] == base.store.nbytes
    config, tokenizer = load_config(base), load_tokenizer(base)
    assert config.num_hidden_layers == 2 and tokenizer.is_fast
    assert base.tokenizer_sha256 == hashlib.sha256((base.config_dir / "tokenizer.json").read_bytes()).hexdigest()
    monkeypatch.setattr(base_model, "run_preparation", None)  # the second time nothing is prepared
    assert resolve_base(str(gguf)).artifact_sha256 == base.artifact_sha256


def test_an_error_in_the_other_process_arrives_as_it_was(tmp_path: Path) -> None:
    path = tmp_path / "cut.gguf"
    path.write_bytes(write_tiny_gguf(tmp_path / "tiny.gguf").read_bytes()[:-100])
    with pytest.raises(ModelError, match="truncated or damaged"):
        resolve_base(str(path))
    assert [path for path in (tmp_path / "cache" / "stores").iterdir() if path.is_dir()] == []


def test_a_changed_source_is_prepared_again(gguf: Path, jobs: list) -> None:
    resolve_base(str(gguf))
    resolve_base(str(gguf))
    assert len(jobs) == 1
    write_tiny_gguf(gguf, seed=1)
    os.utime(gguf, ns=(1, 1))
    events: list[dict[str, Any]] = []
    base = resolve_base(str(gguf), "auto", events.append)
    assert len(jobs) == 2 and "changed" in events[0]["message"]
    assert base.artifact_sha256 == hashlib.sha256(gguf.read_bytes()).hexdigest()


@pytest.mark.parametrize("damage", ["truncated", "missing", "index", "format"])
def test_a_damaged_store_is_prepared_again(gguf: Path, jobs: list, damage: str) -> None:
    folder = resolve_base(str(gguf)).store.folder
    if damage == "truncated":
        (folder / "block.1.bin").write_bytes(b"short")
    elif damage == "missing":
        (folder / "norm.bin").unlink()
    elif damage == "index":
        (folder / "index.json").write_text("{")
    else:
        index = (folder / "index.json").read_text()
        (folder / "index.json").write_text(index.replace('"format": 1', '"format": 0', 1))
    base = resolve_base(str(gguf))
    assert len(jobs) == 2 and damaged_blocks(base.store.folder) == []


def test_a_folder_becomes_bf16_by_itself_and_each_quantization_is_kept_apart(tmp_path: Path, jobs: list) -> None:
    folder = save_tiny_folder(tmp_path / "m")
    assert resolve_base(str(folder)).quantization == "bf16"
    assert resolve_base(str(folder), "int8").quantization == "int8"
    assert resolve_base(str(folder), "bf16").quantization == "bf16"
    assert [job["quantization"] for job in jobs] == ["bf16", "int8"]
    with pytest.raises(UsageError, match="gguf"):
        resolve_base(str(folder), "gguf")


def test_a_prepared_model_is_found_by_its_bare_name_even_when_the_source_is_gone(gguf: Path, jobs: list) -> None:
    before = values(resolve_base(str(gguf)).store)
    gguf.unlink()
    for name in ("tiny", "tiny.gguf"):
        assert values(resolve_base(name).store).keys() == before.keys()
    with pytest.raises(ModelError, match=r"gone"):
        resolve_base("tiny", "nf4")


def test_a_catalog_model_is_fetched_once_and_again_when_damaged(
    tmp_path: Path, jobs: list, monkeypatch: pytest.MonkeyPatch
) -> None:
    source = write_tiny_gguf(tmp_path / "source.gguf").read_bytes()
    entry = replace(
        catalog()[default_name()],
        name="tiny-one",
        file="tiny-one.gguf",
        sha256=hashlib.sha256(source).hexdigest(),
        size_bytes=len(source),
    )
    fetched: list[str] = []

    def fetch(entry: CatalogEntry, target: Path, report: Any) -> None:
        fetched.append(entry.name)
        target.write_bytes(source)

    monkeypatch.setattr(base_model, "fetch", fetch)
    monkeypatch.setattr(location, "catalog", lambda: {"tiny-one": entry})
    base = resolve_base("tiny-one")
    assert (base.name, base.licence, base.artifact_sha256) == ("tiny-one", "Apache-2.0", entry.sha256)
    file = tmp_path / "cache" / "models" / "tiny-one" / "tiny-one.gguf"
    file.write_bytes(b"damaged")
    resolve_base("tiny-one")  # the store is whole, and that is what is used
    assert fetched == ["tiny-one"]
    events: list[dict[str, Any]] = []
    resolve_base("tiny-one", "int8", events.append)
    assert fetched == ["tiny-one"] * 2 and "damaged" in events[0]["message"]


@pytest.mark.parametrize(
    "name, says",
    [
        ("smollm2-135", "did you mean smollm2-135m"),
        ("owner/name", "hf:owner/name"),
        ("./nothing/here", "no such file"),
        ("nothing.gguf", "no such file"),
        ("long" * 100, "known names are"),
        ("zzz", "known names are smollm2-135m"),
    ],
)
def test_an_unknown_name_gets_a_hint(name: str, says: str) -> None:
    with pytest.raises(ModelError) as caught:
        resolve_base(name)
    assert says in str(caught.value) and "\n" not in str(caught.value)


def test_an_unknown_quantization_is_a_usage_error(gguf: Path) -> None:
    with pytest.raises(UsageError, match="int8"):
        resolve_base(str(gguf), "q3")


def test_leftovers_of_a_killed_preparation_are_cleared(gguf: Path, jobs: list) -> None:
    store = location.locate(str(gguf)).store("gguf")
    leftover = store.parent / f".{store.name}.dead.tmp"
    leftover.mkdir(parents=True)
    (leftover / "block.0.bin").write_bytes(b"x")
    resolve_base(str(gguf))
    assert not leftover.exists()


def test_a_relative_home_is_the_same_place_for_every_process(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("POCKETFT_HOME", "home")
    assert location.cache_home() == tmp_path / "home"


def test_keys_of_different_places_differ_and_are_file_names(tmp_path: Path) -> None:
    places = [location.Location(str(tmp_path / a / "Weird name!.gguf"), "gguf", tmp_path / a / "x") for a in "ab"]
    keys = [place.key for place in places] + [location.Location("hf:o/n", "hub").key]
    assert len(set(keys)) == 3
    assert all("/" not in key and " " not in key and not key.startswith(".") for key in keys)
