from __future__ import annotations

import codecs
import json
import os
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pocketft.data.documents import Document, ReadReport
from pocketft.data.encoding import NotText, detect, without_surrogates
from pocketft.data.readers import jsonl, read_documents
from pocketft.data.readers.markdown import front_matter_end
from pocketft.data.sources import check_paths, find_files
from pocketft.errors import UsageError

EUROPEAN = "Größe, façade, naïve: “Où êtes-vous?” – 3 €"


def read(*paths: Path) -> tuple[list[Document], ReadReport]:
    report = ReadReport()
    return list(read_documents(find_files(paths, report), report)), report


def texts(folder: Path) -> list[str]:
    return [document.text for document in read(folder)[0]]


def test_a_folder_is_read_in_order_with_names_from_its_top(notes: Path) -> None:
    (notes / "b.txt").write_text("second")
    (notes / "a").mkdir()
    (notes / "a" / "z.txt").write_text("first\n")
    documents, report = read(notes)
    assert [(d.source, d.text) for d in documents] == [("notes/a/z.txt", "first"), ("notes/b.txt", "second")]
    assert report.files == {"text": 2} and not report.files_skipped


def test_hidden_files_and_our_own_runs_are_passed_over(notes: Path) -> None:
    for name in (".secret.txt", ".git/config", "run/pocketft.json", "run/README.md", "other/adapter_config.json"):
        (notes / name).parent.mkdir(exist_ok=True)
        (notes / name).write_text("no")
    (notes / "yes.txt").write_text("yes")
    documents, report = read(notes)
    assert [d.text for d in documents] == ["yes"] and not report.files_skipped


def test_a_hidden_file_named_by_the_person_is_read(notes: Path) -> None:
    (notes / ".journal.txt").write_text("mine")
    assert texts(notes / ".journal.txt") == ["mine"]


def test_links_neither_loop_nor_read_a_file_twice(notes: Path) -> None:
    (notes / "a.txt").write_text("once")
    (notes / "loop").symlink_to(notes)
    (notes / "same.txt").symlink_to(notes / "a.txt")
    (notes / "gone.txt").symlink_to(notes / "nowhere")
    documents, report = read(notes, notes / "a.txt")
    assert [d.text for d in documents] == ["once"]
    assert report.files_skipped == {"link that points nowhere": 1}


def test_what_is_not_text_is_skipped_with_its_kind(notes: Path) -> None:
    (notes / "a.txt").write_bytes(b"\x89PNG\r\n...")
    (notes / "b.txt").write_bytes(bytes(range(256)) * 40)
    (notes / "c.txt").write_bytes(b"")
    (notes / "d.txt").write_text(" \n\n")
    (notes / "e.txt").write_bytes("Привет, как дела? Сегодня хорошая погода.".encode("cp1251"))
    os.mkfifo(notes / "f.txt")
    (notes / "g.json").write_text('[\n {"title": "x", "kind": 3}\n]')
    documents, report = read(notes)
    assert not documents
    assert set(report.files_skipped) == {
        "binary file (PNG image)",
        "binary file",
        "empty file",
        "nothing but white space",
        "unknown encoding (not UTF-8, UTF-16 or Windows-1252); save it as UTF-8",
        "not a regular file",
        "JSON array that is no export known here (keys: kind, title)",
    }
    assert report.notices()[0].startswith("skipped 7 files: notes/f.txt (not a regular file), notes/a.txt (binary file")
    assert report.notices()[0].endswith("and 2 more")


@pytest.mark.skipif(not hasattr(os, "geteuid") or os.geteuid() == 0, reason="root may read everything")
def test_a_file_without_permission_is_skipped(notes: Path) -> None:
    (notes / "a.txt").write_text("x")
    (notes / "a.txt").chmod(0)
    assert "cannot be read: Permission denied" in read(notes)[1].files_skipped


def test_a_file_that_cannot_be_opened_is_skipped(notes: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (notes / "a.txt").write_text("x")

    def refuse(*args: object, **options: object) -> None:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(Path, "open", refuse)
    assert read(notes)[1].files_skipped == {"cannot be read: Permission denied": 1}


def test_a_link_that_may_not_be_followed_is_skipped(notes: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (notes / "a.txt").write_text("x")
    (notes / "b.txt").write_text("read")
    stat = os.stat

    def refuse(path: object, **options: object) -> os.stat_result:
        if str(path).endswith("a.txt"):
            raise PermissionError(13, "Permission denied", str(path))
        return stat(path, **options)  # type: ignore[arg-type]

    monkeypatch.setattr(os, "stat", refuse)
    documents, report = read(notes)
    assert [d.text for d in documents] == ["read"]
    assert report.files_skipped == {"cannot be read: Permission denied": 1}


def test_a_missing_path_is_bad_usage(notes: Path) -> None:
    with pytest.raises(UsageError, match=r"no such file or folder: .*nothing"):
        check_paths([notes / "nothing"])
    with pytest.raises(UsageError, match="no such file"):
        check_paths([notes / ("long" * 100)])


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16", "utf-16-le", "utf-16-be", "utf-32", "cp1252"])
def test_encodings_are_told_apart(notes: Path, encoding: str) -> None:
    (notes / "a.txt").write_bytes((EUROPEAN + "\r\nand more").encode(encoding))
    documents, report = read(notes)
    assert documents[0].text == EUROPEAN + "\nand more"
    assert bool(report.remarks) == (encoding == "cp1252")


def test_a_windows_letter_far_into_a_file_is_read_rightly(notes: Path) -> None:
    (notes / "a.txt").write_bytes(b"plain words. " * 20_000 + b"caf\xe9")
    assert texts(notes)[-1].endswith("café")


@pytest.mark.parametrize(
    "text", ["שלום עולם, מה שלומך?", "مرحبا بالعالم", "今日は雨が降っている。", "สวัสดีชาวโลก", "🙂👍🏽"]
)
def test_every_script_comes_through_unchanged(notes: Path, text: str) -> None:
    (notes / "a.txt").write_text(text, encoding="utf-8")
    assert texts(notes) == [text]


@given(st.binary(max_size=400))
def test_no_bytes_stop_the_detection(head: bytes) -> None:
    found = detect(head)
    if not isinstance(found, NotText):
        assert codecs.lookup(found).name
        head.decode(found, "replace")


def test_a_text_longer_than_a_part_is_one_document_in_parts(notes: Path) -> None:
    (notes / "a.txt").write_text("one two three. " * 10_000)
    documents, _ = read(notes)
    assert [d.part for d in documents] == list(range(len(documents))) and len(documents) > 3
    assert [d.last for d in documents] == [False] * (len(documents) - 1) + [True]
    assert "".join(d.text for d in documents) == ("one two three. " * 10_000).rstrip()


def test_front_matter_is_dropped_and_gives_the_title(notes: Path) -> None:
    (notes / "a.md").write_text("---\ntitle: 'The boat'\ntags:\n  - sea\n---\n\n# Heading\nText")
    (notes / "b.txt").write_text('+++\ntitle = "Toml"\n+++\nBody')
    (notes / "c.md").write_text("# First heading #\n\ntext")
    documents, report = read(notes)
    assert [(d.title, d.text) for d in documents] == [
        ("The boat", "# Heading\nText"),
        ("Toml", "Body"),
        ("First heading", "# First heading #\n\ntext"),
    ]
    assert report.files == {"markdown": 3}


@pytest.mark.parametrize(
    "text",
    [
        "---\nA rule, then prose without an end",
        "---\nIt rained. We stayed.\n---\n",
        "----\na: 1\n---\n",
        "text\n---\na: 1\n---\n",
    ],
)
def test_a_rule_across_the_page_is_not_front_matter(text: str) -> None:
    assert front_matter_end(text) == 0


LINES = [
    '{"text": "A note."}',
    "not json",
    '["a list"]',
    "",
    '{"messages": [{"role": "user", "content": "Hi"}, '
    '{"role": "assistant", "content": [{"type": "text", "text": "Yo"}]}]}',
    '{"prompt": "2+2?", "completion": "4"}',
    '{"messages": [{"role": "user", "content": "Hi"}]}',
    '{"messages": [{"role": "boss", "content": "Hi"}]}',
    '{"messages": [{"content": "Hi"}]}',
    '{"text": 3}',
    '{"text": "  "}',
    '{"title": "x"}',
    '{"text": "half \\ud83d"}',
    "[" * 100_000,
    '{"text": ' + "1" * 6000 + "}",
]


def test_json_lines_become_documents_and_bad_lines_are_told(notes: Path) -> None:
    (notes / "a.jsonl").write_text("\n".join(LINES))
    documents, report = read(notes)
    assert [d.text for d in documents if d.text] == ["A note.", "half \ufffd"]
    assert [[(t.role, t.text) for t in d.turns] for d in documents if d.turns] == [
        [("user", "Hi"), ("assistant", "Yo")],
        [("user", "2+2?"), ("assistant", "4")],
    ]
    assert report.bad_lines == 10
    told = {bad.where: bad.reason for bad in report.bad}
    assert told["notes/a.jsonl:2"] == "not JSON: expecting value"
    assert told["notes/a.jsonl:7"] == "no words of an assistant to learn from"
    assert told["notes/a.jsonl:8"] == "messages[0] has the unknown role 'boss'"
    assert told["notes/a.jsonl:9"] == "messages[0] has no role"
    assert "notes/a.jsonl:2 (not JSON: expecting value)" in report.notices()[0]


def test_json_lines_are_known_by_content_in_a_file_of_any_name(notes: Path) -> None:
    (notes / "export.txt").write_text('{"text": "one"}\n{"text": "two"}\n')
    (notes / "pretty.json").write_text('{\n "kind": "x"\n}')
    documents, report = read(notes)
    assert [d.text for d in documents] == ["one", "two"]
    assert report.files_skipped == {"JSON object that is no export known here (keys: kind)": 1}


def test_a_line_too_long_for_memory_is_skipped(notes: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(jsonl, "MAX_LINE_CHARS", 1000)
    (notes / "a.jsonl").write_text(json.dumps({"text": "x" * 5000}) + "\n" + json.dumps({"text": "short"}) + "\n")
    documents, report = read(notes)
    assert [d.text for d in documents] == ["short"]
    assert report.bad[0].where == "notes/a.jsonl:1"


@given(st.text(max_size=200))
def test_no_line_of_json_lines_raises(line: str) -> None:
    try:
        list(jsonl._documents(line, "x"))
    except jsonl.Unusable as why:
        assert str(why)


JSON = st.recursive(
    st.none() | st.integers() | st.text(max_size=5),
    lambda s: (
        st.lists(s, max_size=3)
        | st.dictionaries(st.sampled_from(["role", "content", "text", "messages", "tool_calls", "type"]), s, max_size=4)
    ),
    max_leaves=12,
)


@given(st.dictionaries(st.sampled_from(["text", "messages", "prompt", "completion", "tools"]), JSON, max_size=4))
def test_no_record_of_json_lines_raises(record: dict[str, object]) -> None:
    try:
        list(jsonl._documents(json.dumps(record), "x"))
    except jsonl.Unusable as why:
        assert str(why)


def test_half_characters_become_replacement_marks() -> None:
    assert without_surrogates("a\ud83db") == "a\ufffdb"
    assert without_surrogates("\ud83d\ude42") == "🙂"
