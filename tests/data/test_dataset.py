from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from tokenizers import Tokenizer

from pocketft import child
from pocketft.data import (
    DataSettings,
    PreparedData,
    RowSet,
    epoch_order,
    longest_first,
    prepare_dataset,
)
from pocketft.errors import DataError, ModelError, UsageError

PARAGRAPHS = [f"Day {n}. The lamp in the harbour was lit, and she wrote about the bread. It rained." for n in range(40)]


@pytest.fixture
def prepare(tmp_path: Path, plain_dir: Path) -> Callable[..., PreparedData]:
    def run(
        *paths: Path, tokenizer: Path = plain_dir, events: list[dict[str, Any]] | None = None, **settings: Any
    ) -> PreparedData:
        # These notes repeat each other, and what is tested here is what becomes of every word.
        plain = {"deduplicate": False, "drop_boilerplate": False, "min_chars": 0}
        chosen = DataSettings(**{"max_seq_length": 64, **plain, **settings})
        return prepare_dataset(
            list(paths), tokenizer, chosen, tmp_path / "cache", (events if events is not None else []).append
        )

    return run


def write_notes(folder: Path, count: int = 40) -> None:
    for number in range(count):
        (folder / f"{number:02}.txt").write_text(
            "\n\n".join(PARAGRAPHS[number % 5 : number % 5 + 1 + number % 4]) + f" {number}"
        )


def texts(rows: RowSet, tokenizer: Path) -> list[str]:
    """What every piece says: rows split where positions restart."""
    decoder = Tokenizer.from_file(str(tokenizer / "tokenizer.json"))
    found = []
    for index in range(len(rows)):
        row = rows.row(index)
        for part in np.split(row.input_ids, np.flatnonzero(row.position_ids == 0)[1:]):
            found.append(decoder.decode(part.tolist(), skip_special_tokens=False))
    return found


@pytest.mark.parametrize("packing", [True, False])
def test_every_note_is_in_the_rows_once_and_ends(
    notes: Path, plain_dir: Path, prepare: Callable[..., PreparedData], packing: bool
) -> None:
    write_notes(notes)
    data = prepare(notes, packing=packing, max_seq_length=128)
    found = texts(data.train, plain_dir) + texts(data.val, plain_dir)
    assert sorted("".join(found).split("</s>")) == sorted(["", *(path.read_text() for path in notes.iterdir())])
    assert data.report.held_out == "documents" and 0 < len(data.val) < len(data.train)
    assert data.report.documents == 40 and data.report.files == {"text": 40}
    if packing:
        assert data.train.tokens > 0.8 * 128 * len(data.train)
    else:
        assert all((data.train.row(index).position_ids == 0).sum() == 1 for index in range(len(data.train)))


def test_rows_tell_their_lengths_and_carry_labels_as_the_engine_wants_them(
    notes: Path, bos_dir: Path, prepare: Callable[..., PreparedData]
) -> None:
    write_notes(notes)
    rows = prepare(notes, tokenizer=bos_dir).train
    bos = Tokenizer.from_file(str(bos_dir / "tokenizer.json")).token_to_id("<s>")
    for index in range(len(rows)):
        row = rows.row(index)
        begins = row.position_ids == 0
        assert len(row.input_ids) == rows.row_lengths[index] <= 64
        assert (row.input_ids[begins] == bos).all() and (row.labels[begins] == -100).all()
        assert (row.labels[~begins] == row.input_ids[~begins]).all()
        assert (row.labels != -100).sum() == rows.row_loss_tokens[index]
        assert row.input_ids.dtype == row.labels.dtype == row.position_ids.dtype == np.int64


def test_held_out_rows_take_the_length_that_all_trained_rows_have(
    notes: Path, prepare: Callable[..., PreparedData]
) -> None:
    write_notes(notes)
    data = prepare(notes, max_seq_length=120)
    (length,) = set(data.train.padded_lengths.tolist())
    assert data.val.row_lengths.min() < length - 8  # the last one is not full
    assert set(data.val.padded_lengths.tolist()) == {length}
    batch = data.val.batch(range(len(data.val)), pad_id=0)
    assert batch.input_ids.shape == (len(data.val), length)
    assert batch.loss_tokens == data.val.loss_tokens


def test_a_long_document_is_cut_between_its_sentences(
    notes: Path, plain_dir: Path, prepare: Callable[..., PreparedData]
) -> None:
    (notes / "a.txt").write_text(" ".join(PARAGRAPHS))
    data = prepare(notes, max_seq_length=128)
    found = texts(data.train, plain_dir) + texts(data.val, plain_dir)
    assert sorted("".join(sorted(found))) == sorted(" ".join(PARAGRAPHS) + "</s>")
    assert all(piece.endswith((".", ". ", "</s>")) for piece in found)
    assert data.report.held_out == "tail"
    assert any("too few documents" in notice for notice in data.report.notices)


def test_without_a_held_out_part_everything_is_trained_on(notes: Path, prepare: Callable[..., PreparedData]) -> None:
    write_notes(notes, 5)
    data = prepare(notes, val_split=0)
    assert len(data.val) == 0 and data.report.held_out == "none" and not data.report.notices


def test_a_second_run_starts_no_process(
    notes: Path, prepare: Callable[..., PreparedData], monkeypatch: pytest.MonkeyPatch
) -> None:
    write_notes(notes, 5)
    (notes / "x.bin").write_bytes(bytes(100))
    events: list[dict[str, Any]] = []
    first = prepare(notes, events=events)
    assert events[-2]["event"] == "progress" and events[-2]["done"] == events[-2]["total"] > 0
    assert events[-1] == {"event": "notice", "level": "warning", "message": "skipped 1 file: notes/x.bin (binary file)"}
    monkeypatch.setattr(subprocess, "Popen", None)
    again_events: list[dict[str, Any]] = []
    second = prepare(notes, events=again_events)
    assert again_events == events[-1:]
    assert second.key == first.key and second.report == first.report
    assert all((first.train.row(i).input_ids == second.train.row(i).input_ids).all() for i in range(len(first.train)))


def test_changed_text_or_settings_are_prepared_anew(notes: Path, prepare: Callable[..., PreparedData]) -> None:
    write_notes(notes, 5)
    keys = {prepare(notes).key, prepare(notes, max_seq_length=32).key}
    (notes / "00.txt").write_text("Something else entirely, at some length, about the sea and the old wall.")
    keys.add(prepare(notes).key)
    assert len(keys) == 3


def test_an_empty_result_says_why(notes: Path, prepare: Callable[..., PreparedData], tmp_path: Path) -> None:
    with pytest.raises(DataError, match="no text to learn from in notes: there are no files; see"):
        prepare(notes)
    (notes / "a.png").write_bytes(b"\x89PNG\r\n")
    (notes / "b.jsonl").write_text("{}\n")
    with pytest.raises(DataError, match=r"1 unusable line .*b\.jsonl:1: not an object with text.*PNG image.*a\.png"):
        prepare(notes)
    with pytest.raises(UsageError, match="no such file"):
        prepare(notes / "missing")
    assert not list((tmp_path / "cache").iterdir())


def test_too_little_to_learn_is_said(
    notes: Path, prepare: Callable[..., PreparedData], make_tokenizer: Callable[..., Path]
) -> None:
    template = "{% for m in messages %}<|{{ m.role }}|>\n{{ m.content }}{{ eos_token }}\n{% endfor %}"
    record = {"messages": [{"role": "user", "content": "x"}, {"role": "assistant", "content": "y"}]}
    (notes / "a.jsonl").write_text(json.dumps(record))
    assert len(prepare(notes, tokenizer=make_tokenizer(template=template)).train) == 1


def test_an_error_of_the_reading_process_arrives_as_itself(
    notes: Path, prepare: Callable[..., PreparedData], tmp_path: Path
) -> None:
    write_notes(notes, 2)
    (tmp_path / "empty").mkdir()
    with pytest.raises(ModelError, match="no fast tokenizer"):
        prepare(notes, tokenizer=tmp_path / "empty")


def test_a_killed_reading_process_is_a_plain_error_and_leaves_nothing(
    notes: Path, prepare: Callable[..., PreparedData], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(child, "_converse", lambda process, job, report: process.kill())
    with pytest.raises(DataError, match=r"was stopped from outside \(signal 9\)"):
        prepare(notes)


def test_an_interruption_ends_the_reading_process_and_its_files(notes: Path, plain_dir: Path, tmp_path: Path) -> None:
    (notes / "a.txt").write_text("The lamp in the harbour was lit. " * 400_000)

    class Stop(BaseException):
        pass

    def stop(event: dict[str, Any]) -> None:
        raise Stop

    with pytest.raises(Stop):
        prepare_dataset([notes], plain_dir, DataSettings(), tmp_path / "cache", stop)
    assert not list((tmp_path / "cache").iterdir())


def test_epoch_order_is_a_fixed_function() -> None:
    assert epoch_order(8, 0, 0) == epoch_order(8, 0, 0) != epoch_order(8, 1, 0)
    assert sorted(epoch_order(100, 3, 7)) == list(range(100))
    assert epoch_order(8, 0, 0) == [0, 6, 4, 3, 1, 7, 2, 5]  # a resumed run must find it on every Python


def test_the_longest_rows_come_first_and_none_is_lost() -> None:
    order = longest_first([3, 0, 2, 1], [5, 9, 7, 9], 2)
    assert order == [1, 3, 0, 2]


def test_the_training_process_loads_no_tokenizer_and_no_torch(notes: Path, plain_dir: Path, tmp_path: Path) -> None:
    write_notes(notes, 5)
    code = (
        "import sys, pathlib; from pocketft.data import DataSettings, prepare_dataset\n"
        f"data = prepare_dataset([pathlib.Path({str(notes)!r})], pathlib.Path({str(plain_dir)!r}), DataSettings(), "
        f"pathlib.Path({str(tmp_path / 'cache')!r}), print)\n"
        "data.train.row(0); print(sorted({'torch', 'tokenizers', 'transformers', 'jinja2'} & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.splitlines()[-1] == "[]"
