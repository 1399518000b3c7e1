"""An export of any size is read in the memory of a small one."""

from __future__ import annotations

import json
import tracemalloc
from collections.abc import Callable
from pathlib import Path

import pytest

from pocketft.data.documents import ReadReport
from pocketft.data.readers import read_documents
from pocketft.data.sources import find_files

WORDS = "The lamp in the harbour was lit before the rain came, and nobody saw it. " * 20


def mail(number: int) -> str:
    return (
        f"From x@y Mon Jan 01 10:00:00 2024\nFrom: p{number % 9}@example.org\nTo: ben@example.org\n"
        f"Subject: {number}\nDate: Mon, 01 Jan 2024 10:00:00 +0000\n\n{number} {WORDS}\n\n"
    )


def line(number: int) -> str:
    return json.dumps({"text": f"{number} {WORDS}"}) + "\n"


def telegram(number: int) -> str:
    opening = '{"name": "Anna", "type": "personal_chat", "id": 1, "messages": [' if number == 0 else ","
    return opening + json.dumps({"type": "message", "from": "AB"[number % 2], "date_unixtime": "9", "text": WORDS})


def whatsapp(number: int) -> str:
    return f"01.02.24, 10:00 - {'AB'[number % 2]}: {number} {WORDS}\n"


def array(number: int) -> str:
    return ("[" if number == 0 else ",") + json.dumps({"instruction": str(number), "output": WORDS})


def page(number: int) -> str:
    return ("<html><body>" if number == 0 else "") + f"<p>{number} {WORDS}</p>\n"


def row(number: int) -> str:
    return ("id,text\n" if number == 0 else "") + f'{number},"{WORDS}"\n'


def one_line(number: int) -> str:
    return WORDS


@pytest.mark.parametrize(
    ("name", "piece"),
    [
        ("a.mbox", mail), ("a.jsonl", line), ("a.json", telegram), ("a.txt", whatsapp), ("b.json", array),
        ("a.html", page), ("a.csv", row), ("a.md", one_line), ("a.org", one_line), ("b.txt", one_line),
    ],
)  # fmt: skip
def test_memory_is_flat(tmp_path: Path, name: str, piece: Callable[[int], str]) -> None:
    def peak_bytes(size_bytes: int) -> int:
        path = tmp_path / name
        with path.open("w") as file:
            written = number = 0
            while written < size_bytes:
                written += file.write(piece(number))
                number += 1
        report = ReadReport()
        tracemalloc.start()
        try:
            for _ in read_documents(find_files([path], report), report):
                pass
            return tracemalloc.get_traced_memory()[1]
        finally:
            tracemalloc.stop()

    peak_bytes(100_000)  # what is imported on first use stays
    assert peak_bytes(4_000_000) < 2_500_000
