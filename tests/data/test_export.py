from __future__ import annotations

import io
import json
from pathlib import Path

from pocketft.data.documents import Document, ReadReport, Turn
from pocketft.data.export import write_documents
from pocketft.data.layout import DataSettings
from pocketft.data.reading import read


def exported(documents: list[Document]) -> list[dict[str, object]]:
    file = io.StringIO()
    count = write_documents(documents, file)
    records = [json.loads(line) for line in file.getvalue().splitlines()]
    assert len(records) == count
    return records


def test_a_text_in_parts_is_one_line() -> None:
    parts = [Document("a", 'one "', part=0, last=False), Document("a", "two\n", part=1, last=False)]
    assert exported([*parts, Document("a", " three", part=2)]) == [{"source": "a", "text": 'one "two\n three'}]


def test_a_text_whose_end_was_left_out_still_ends_its_line() -> None:
    documents = [Document("a", "one", last=False), Document("b", "two"), Document("c", "three", last=False)]
    assert [record["text"] for record in exported(documents)] == ["one", "two", "three"]


def test_chats_keep_roles_fields_and_tools() -> None:
    turns = (Turn("user", "Hi"), Turn("assistant", "", {"tool_calls": [{"x": 1}]}))
    record = exported([Document("a", turns=turns, tools=({"name": "t"},), title="T", time_s=5.0)])[0]
    assert record == {
        "source": "a",
        "title": "T",
        "time_s": 5.0,
        "messages": [{"role": "user", "content": "Hi"}, {"role": "assistant", "content": "", "tool_calls": [{"x": 1}]}],
        "tools": [{"name": "t"}],
    }


def test_what_is_exported_is_read_back_as_the_same(notes: Path, tmp_path: Path) -> None:
    (notes / "long.txt").write_text("The lamp was lit. It rained.\n\n" * 4000)
    (notes / "chat.jsonl").write_text(
        '{"messages": [{"role": "user", "content": "Hi there"}, '
        '{"role": "assistant", "content": "Hello to you too"}]}\n'
    )
    settings = DataSettings(deduplicate=False, drop_boilerplate=False)
    first = list(read([notes], settings, ReadReport()))
    with (tmp_path / "out.jsonl").open("w") as file:
        assert write_documents(first, file) == 2
    again = list(read([tmp_path / "out.jsonl"], settings, ReadReport()))
    assert [d.turns for d in again if d.turns] == [d.turns for d in first if d.turns]
    assert "".join(d.text for d in again) == "".join(d.text for d in first)
