"""Files: old or new after a kill at any moment, never half, and a disk's refusal in words."""

from __future__ import annotations

import errno
import json
import os
import shutil
import signal
import stat
import subprocess
import sys
from pathlib import Path

import pytest

from pocketft import files
from pocketft.errors import StorageError


def names(folder: Path) -> set[str]:
    return {path.name for path in folder.iterdir()}


def test_a_file_is_replaced_whole(tmp_path: Path) -> None:
    target = tmp_path / "new folder" / "a.txt"
    files.write_text(target, "old")
    files.write_text(target, "näw")
    assert target.read_text(encoding="utf-8") == "näw"
    assert names(target.parent) == {"a.txt"}


def test_a_failure_while_writing_leaves_the_old_file_and_nothing_else(tmp_path: Path) -> None:
    target = tmp_path / "a.txt"
    files.write_text(target, "old")
    with pytest.raises(RuntimeError), files.atomic_path(target) as temporary:
        temporary.write_text("half")
        raise RuntimeError
    assert target.read_text() == "old"
    assert names(tmp_path) == {"a.txt"}


def test_a_folder_is_replaced_whole(tmp_path: Path) -> None:
    target = tmp_path / "folder"
    for content in ("old", "new"):
        with files.atomic_folder(target) as temporary:
            (temporary / content).write_text(content)
    assert names(target) == {"new"}
    assert names(tmp_path) == {"folder"}


def test_a_failure_while_filling_a_folder_leaves_the_old_one(tmp_path: Path) -> None:
    target = tmp_path / "folder"
    with files.atomic_folder(target) as temporary:
        (temporary / "old").touch()
    with pytest.raises(RuntimeError), files.atomic_folder(target) as temporary:
        (temporary / "new").touch()
        raise RuntimeError
    assert names(target) == {"old"}
    assert names(tmp_path) == {"folder"}


@pytest.mark.parametrize("error", [KeyboardInterrupt(), OSError(errno.EIO, "Input/output error")])
def test_an_interruption_while_a_folder_is_replaced_puts_the_old_one_back(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, error: BaseException
) -> None:
    target = tmp_path / "folder"
    with files.atomic_folder(target) as temporary:
        (temporary / "old").touch()
    replace = os.replace

    def interrupted(source: Path, path: Path) -> None:
        if source.suffix == ".tmp":
            raise error
        replace(source, path)

    monkeypatch.setattr(os, "replace", interrupted)
    with pytest.raises(type(error)), files.atomic_folder(target) as temporary:
        (temporary / "new").touch()
    assert names(target) == {"old"}
    assert names(tmp_path) == {"folder"}


@pytest.mark.skipif(os.name != "posix", reason="modes are POSIX")
def test_others_may_read_what_the_umask_allows(tmp_path: Path) -> None:
    before = os.umask(0o022)
    try:
        files.write_text(tmp_path / "a", "x")
        with files.atomic_folder(tmp_path / "b"):
            pass
    finally:
        os.umask(before)
    assert stat.S_IMODE((tmp_path / "a").stat().st_mode) == 0o644
    assert stat.S_IMODE((tmp_path / "b").stat().st_mode) == 0o755


@pytest.mark.parametrize(
    ("number", "words"),
    [
        (errno.ENOSPC, "disk is full"),
        (errno.EROFS, "read-only"),
        (errno.EACCES, "no permission"),
        (errno.EDQUOT, "quota"),
        (errno.EISDIR, "a folder; name a file"),
        (errno.ENAMETOOLONG, "too long"),
    ],
)
def test_what_a_disk_refuses_is_said_in_words(tmp_path: Path, number: int, words: str) -> None:
    with pytest.raises(StorageError, match=words), files.atomic_path(tmp_path / "a"):
        raise OSError(number, os.strerror(number))
    assert names(tmp_path) == set()


def test_a_file_where_a_folder_is_needed_is_said_in_words(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(StorageError, match="choose another folder"):
        files.write_text(tmp_path / "file" / "folder" / "a", "x")


def test_other_errors_keep_their_kind(tmp_path: Path) -> None:
    with pytest.raises(ConnectionError), files.storage_errors(tmp_path):
        raise ConnectionError(errno.ECONNRESET, "connection reset")


def test_a_disk_without_room_is_told_with_what_helps(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    files.require_space(tmp_path / "new" / "folder" / "a", 1)
    monkeypatch.setattr(shutil, "disk_usage", lambda path: shutil._ntuple_diskusage(10, 10, 10))
    with pytest.raises(StorageError, match="needs 5 MB and the disk has 0 MB free; free some space or buy a disk"):
        files.require_space(tmp_path / "new" / "folder" / "a", 5 << 20, "buy a disk")


def test_json_ends_with_a_newline_and_keeps_letters(tmp_path: Path) -> None:
    files.write_json(tmp_path / "a.json", {"å": [1, None]})
    text = (tmp_path / "a.json").read_text(encoding="utf-8")
    assert "å" in text and text.endswith("\n")
    assert json.loads(text) == {"å": [1, None]}


def test_sha256_of_a_file(tmp_path: Path) -> None:
    (tmp_path / "a").write_bytes(b"abc")
    assert files.sha256_of(tmp_path / "a") == "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"


_WRITER = """
import sys
from pathlib import Path
from pocketft.files import atomic_folder, write_text
root, number = Path(sys.argv[1]), 0
print("ready", flush=True)
while True:
    number += 1
    write_text(root / "file", str(number) * 20000)
    with atomic_folder(root / "folder") as temporary:
        (temporary / "a").write_text(str(number) * 20000)
        (temporary / "b").write_text(str(number) * 20000)
"""


@pytest.mark.skipif(os.name != "posix", reason="kill -9 is POSIX")
def test_a_kill_leaves_the_file_whole_and_one_of_the_folders_whole(tmp_path: Path) -> None:
    writer = subprocess.Popen([sys.executable, "-c", _WRITER, str(tmp_path)], stdout=subprocess.PIPE)
    assert writer.stdout is not None and writer.stdout.readline() == b"ready\n"
    with pytest.raises(subprocess.TimeoutExpired):
        writer.wait(0.3)
    writer.send_signal(signal.SIGKILL)
    writer.wait()
    writer.stdout.close()

    def whole(text: str) -> bool:
        return any(text == text[:length] * 20000 for length in (1, 2, 3, 4, 5))

    assert whole((tmp_path / "file").read_text())
    # A kill between the two renames leaves the new folder under its temporary name and the old one aside.
    folders = [path for path in tmp_path.iterdir() if path.is_dir() and names(path) == {"a", "b"}]
    assert any(whole((path / "a").read_text()) and whole((path / "b").read_text()) for path in folders)
