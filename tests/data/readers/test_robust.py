"""Whatever a file holds, reading gives documents or a reason in words, never a traceback."""

from __future__ import annotations

import tempfile
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from pocketft.data.documents import Document, ReadReport
from tests.data.readers.reading import read_one
from tests.data.readers.samples import SAMPLES, ZIP

FILES = [(name, content) for files in SAMPLES.values() for name, content in files] + [("notes.zip", ZIP)]
NAMES = [name for name, _ in FILES]


def check(documents: list[Document], report: ReadReport) -> None:
    """Something was read, or it is said why not; and it can be told, learned and written as JSON."""
    for document in documents:
        assert document.text.strip() or any(turn.text.strip() or turn.fields for turn in document.turns)
        (document.text + "".join(turn.text for turn in document.turns)).encode()
    assert documents or report.told() or report.notices()
    assert all(notice and "\n" not in notice for notice in report.notices())
    report.to_json()
    if not documents:
        assert report.why_nothing() != "there are no files"


@pytest.mark.parametrize("name", NAMES)
def test_an_empty_file_is_named(tmp_path: Path, name: str) -> None:
    assert read_one(tmp_path, name, b"")[1].files_skipped == {"empty file": 1}


@pytest.mark.parametrize(("name", "content"), FILES, ids=NAMES)
def test_a_truncated_file_is_read_as_far_as_it_goes(tmp_path: Path, name: str, content: bytes) -> None:
    for part in (0.02, 0.3, 0.6, 0.9, 0.99):
        check(*read_one(tmp_path, name, content[: max(1, int(len(content) * part))]))


@pytest.mark.parametrize("name", NAMES)
def test_a_file_of_another_kind_is_read_as_what_it_is(tmp_path: Path, name: str) -> None:
    for _, content in FILES:
        check(*read_one(tmp_path, name, content))


def test_what_a_truncated_export_holds_is_not_lost(tmp_path: Path) -> None:
    for name in ("result.json", "conversations.json", "alpaca.json", "anna.json"):
        content = dict(FILES)[name]
        documents, report = read_one(tmp_path, name, content[: int(len(content) * 0.93)])
        assert documents and "cut off or damaged at character" in report.damaged[0].reason


@given(st.sampled_from(FILES), st.data())
@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.too_slow])
def test_damaged_bytes_never_raise(file: tuple[str, bytes], data: st.DataObject) -> None:
    name, content = file
    damaged = bytearray(content)
    for _ in range(data.draw(st.integers(1, 8))):
        at = data.draw(st.integers(0, len(damaged)))
        length = data.draw(st.integers(0, 40))
        damaged[at : at + length] = data.draw(st.binary(max_size=20))
    with tempfile.TemporaryDirectory() as folder:
        check(*read_one(Path(folder), name, bytes(damaged) or b"\0"))


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.sampled_from(["message", "user", "text", "", "1"]),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from(["id", "role", "text", "type"]), inner),
    max_leaves=6,
)


@given(st.sampled_from([file for file in FILES if file[0].endswith((".json", ".jsonl"))]), st.data())
@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.too_slow])
def test_json_of_other_types_never_raises(file: tuple[str, bytes], data: st.DataObject) -> None:
    """The same export, with a value somewhere in it that is not what it should be."""
    import json

    name, content = file
    lines = (
        content.decode().splitlines() if name.endswith(".jsonl") or content.count(b"\n{") > 1 else [content.decode()]
    )
    try:
        trees = [json.loads(line) for line in lines]
    except ValueError:
        trees = [json.loads(content)]
    places: list[tuple[object, object]] = []

    def collect(node: object) -> None:
        for key, value in node.items() if isinstance(node, dict) else enumerate(node) if isinstance(node, list) else ():
            places.append((node, key))
            collect(value)

    collect(trees)
    for _ in range(data.draw(st.integers(1, 3))):
        node, key = data.draw(st.sampled_from(places))
        node[key] = data.draw(JSON)  # type: ignore[index]
    with tempfile.TemporaryDirectory() as folder:
        check(*read_one(Path(folder), name, "\n".join(map(json.dumps, trees)).encode()))
