"""Archives are read in place, and one that is made to hurt is refused."""

from __future__ import annotations

import io
import zipfile
from pathlib import Path

import pytest

from pocketft.data import archives
from tests.data.readers import samples
from tests.data.readers.reading import read, read_one, said


def zipped(files: dict[str, bytes], kind: int = zipfile.ZIP_DEFLATED) -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", kind) as archive:
        for name, content in files.items():
            archive.writestr(name, content)
    return buffer.getvalue()


def test_members_are_files_like_others(tmp_path: Path) -> None:
    documents, report = read_one(tmp_path, "x.zip", samples.ZIP)
    assert [d.source for d in documents] == ["x.zip/chat.json", "x.zip/notes/a.txt"]
    assert report.files == {"telegram": 1, "text": 1} and not report.files_skipped
    assert not [path for path in tmp_path.iterdir() if path.name != "x.zip"]


def test_documents_in_archives_and_archives_in_archives(tmp_path: Path) -> None:
    inner = zipped({"a.md": b"# Part one\n\nText", "book.epub": samples.EPUB, "r.docx": samples.DOCX})
    documents, report = read_one(tmp_path, "Export.zip", zipped({"ExportBlock-Part-1.zip": inner}))
    assert report.files == {"markdown": 1, "epub": 1, "docx": 1}
    assert {d.title for d in documents} == {"Part one", "The Lamp", None}
    too_deep = zipped({"c.zip": zipped({"b.zip": inner})})
    assert read_one(tmp_path, "deep.zip", too_deep)[1].files_skipped == {"archive in an archive in an archive": 1}


def test_a_slack_export_is_read_from_its_archive(tmp_path: Path) -> None:
    content = zipped({"users.json": samples.SLACK_USERS, "general/2024-03-21.json": samples.SLACK_DAY})
    documents, _ = read_one(tmp_path, "slack.zip", content, me="Anna")
    assert [said(d) for d in documents] == [[("assistant", "Hi @Ben Okoro, see the page & tell")]]


def test_what_is_compressed_beyond_reason_is_refused(tmp_path: Path) -> None:
    bomb = zipped({"bomb.txt": b"0" * (8 << 20), "fine.txt": b"Fine."})
    documents, report = read_one(tmp_path, "x.zip", bomb)
    assert [d.text for d in documents] == ["Fine."]
    assert report.files_skipped == {"file compressed more than 200 times, as no text is": 1}


def test_archives_beyond_the_limits_are_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    content = zipped({f"{n}.txt": b"words " * 10 for n in range(5)})
    monkeypatch.setattr(archives, "MAX_TOTAL_BYTES", 130)
    assert len(read_one(tmp_path, "x.zip", content)[0]) == 2
    monkeypatch.setattr(archives, "MAX_MEMBERS", 4)
    assert "zip archive with more than 4 files" in read_one(tmp_path, "x.zip", content)[1].files_skipped


def test_a_member_larger_than_it_says_is_read_no_further(tmp_path: Path) -> None:
    content = zipped({"a.txt": b"A" * 1000 + b"B" * 1000}, zipfile.ZIP_STORED)
    lying = content.replace((2000).to_bytes(4, "little"), (900).to_bytes(4, "little"))
    documents, report = read_one(tmp_path, "x.zip", lying)
    assert not any("B" in d.text for d in documents) and report.told()


def test_an_encrypted_member_is_named(tmp_path: Path) -> None:
    content = bytearray(zipped({"a.txt": b"secret"}, zipfile.ZIP_STORED))
    content[content.index(b"PK\x01\x02") + 8] |= 1
    assert (
        "encrypted file in an archive; unpack it first" in read_one(tmp_path, "x.zip", bytes(content))[1].files_skipped
    )


def test_a_damaged_archive_is_named(tmp_path: Path) -> None:
    content = zipped({"a.txt": b"Some words that are here."}, zipfile.ZIP_STORED)
    _, report = read_one(tmp_path, "x.zip", content.replace(b"words", b"wards"))
    assert "damaged archive" in next(iter(report.files_skipped))
    (tmp_path / "y.zip").write_bytes(content[:40])
    assert next(iter(read(tmp_path / "y.zip")[1].files_skipped)).startswith("zip archive that cannot be opened")
