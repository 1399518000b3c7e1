from __future__ import annotations

import itertools
from pathlib import Path

import pytest

from pocketft.data import DataSettings, prepare_dataset
from pocketft.data.overview import document_lengths, sample_texts
from pocketft.data.tokenizer import load_text_tokenizer
from pocketft.errors import MemoryCapError


def test_lengths_add_up_and_samples_are_what_is_learned(notes: Path, plain_dir: Path, tmp_path: Path) -> None:
    for number in range(12):
        (notes / f"{number:02}.txt").write_text(f"Note {number}. " + "The lamp in the harbour was lit. " * (number + 1))
    settings = DataSettings(max_seq_length=64, deduplicate=False)
    data = prepare_dataset([notes], plain_dir, settings, tmp_path / "cache", lambda event: None)
    lengths = document_lengths(data.tokens_dir)
    assert sum(entry.documents for entry in lengths) == 12 == data.report.documents
    assert all(after.first == before.last + 1 for before, after in itertools.pairwise(lengths))
    assert lengths[0].documents and lengths[-1].documents
    samples = sample_texts(data.tokens_dir, load_text_tokenizer(plain_dir))
    assert [text.split(".")[0] for text in samples] == ["Note 2", "Note 6", "Note 10"]
    assert data.report.reading["documents"] == {"text": 12} and data.report.reading["languages"] == {"en": 12}


def test_the_memory_cap_is_not_taken_for_a_broken_tokenizer(plain_dir: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    class Full:
        @staticmethod
        def from_file(path: str) -> None:
            raise MemoryCapError("reading needs more than the cap")

    monkeypatch.setattr("pocketft.data.tokenizer.Tokenizer", Full)
    with pytest.raises(MemoryCapError):
        load_text_tokenizer(plain_dir)
