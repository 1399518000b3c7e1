"""JSON Lines: one object a line with text, messages, conversations, prompt and completion, or instruction and output.

A line that cannot be used is told to the report with its number and skipped; nothing in a file stops the reading.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import replace

from pocketft.data.documents import Document, ReadReport
from pocketft.data.encoding import open_text
from pocketft.data.readers.reader import Reader, Sample
from pocketft.data.readers.records import EXPECTED, Unusable, documents_of_record, is_record
from pocketft.data.readers.text import remark_encoding

MAX_LINE_CHARS = 8 << 20  # a longer line is no record of anybody's; it would only fill the memory
_NAMES = (".jsonl", ".ndjson", ".jsonlines")


def _recognises(sample: Sample) -> bool:
    named = sample.suffix in _NAMES
    lines = [line for line in sample.head.split("\n") if line.strip()]
    if not sample.whole and len(lines) > 1:
        lines.pop()  # cut off by the sample's end
    if not named and not (lines and lines[0].lstrip().startswith("{")):
        return False
    return named or any(_is_record(line) for line in lines[:5])


def _read(sample: Sample, report: ReadReport) -> Iterator[Document]:
    number = 0
    with open_text(sample.file, sample.encoding) as (file, decoded):
        while line := file.readline(MAX_LINE_CHARS):
            number += 1
            if len(line) == MAX_LINE_CHARS and not line.endswith("\n"):
                while (rest := file.readline(MAX_LINE_CHARS)) and not rest.endswith("\n"):
                    pass
                report.bad_line(sample.name, number, f"longer than {MAX_LINE_CHARS >> 20} million characters")
                continue
            if not line.strip():
                continue
            try:
                for document in _documents(line, sample.name):
                    yield replace(document, record_line=number)
            except Unusable as why:
                report.bad_line(sample.name, number, str(why))
    remark_encoding(decoded, sample, report)


def _documents(line: str, source: str) -> Iterator[Document]:
    try:
        record = json.loads(line)
    except RecursionError:
        raise Unusable("nested too deeply") from None
    except ValueError as error:
        reason = getattr(error, "msg", None) or "a number too long"
        raise Unusable(f"not JSON: {reason[:1].lower()}{reason[1:]}") from None
    if not isinstance(record, dict):
        raise Unusable(f"not {EXPECTED}")
    yield from documents_of_record(record, source)


def _is_record(line: str) -> bool:
    try:
        return is_record(json.loads(line))
    except (ValueError, RecursionError):
        return False


JSONL = Reader("jsonl", _recognises, _read)
