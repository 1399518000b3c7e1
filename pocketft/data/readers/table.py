"""CSV and TSV: every row is a document, its text in one column (--column) or in a prompt and a completion."""

from __future__ import annotations

import csv
from collections.abc import Iterable, Iterator
from dataclasses import replace
from typing import TYPE_CHECKING, TextIO

from pocketft.data.documents import Document, ReadReport
from pocketft.data.encoding import open_text
from pocketft.data.readers.reader import Reader, Sample
from pocketft.data.readers.records import Unusable, documents_of_record

if TYPE_CHECKING:
    from _csv import Reader as Rows

MAX_CELL_CHARS = 8 << 20
_NAMES = (".csv", ".tsv", ".tab")
_TEXT_COLUMNS = ("text", "content", "body", "message", "note", "entry")
_PAIRS = (("prompt", "completion"), ("instruction", "output"))
_DELIMITERS = ",;\t|"


def _recognises(sample: Sample) -> bool | str:
    lines = sample.head.split("\n")
    delimiter = _delimiter(lines[0])
    if sample.suffix not in _NAMES and not (delimiter == "\t" and _is_regular(lines)):
        return False
    header = next(_rows(iter([lines[0]]), delimiter), [])
    if _wanted(header, sample.column):
        return True
    shown = ", ".join(name for name in header[:8])[:120]
    if sample.column is not None:
        return f"table without a column {sample.column} (columns: {shown})"
    return f"table: name the column to read with --column (columns: {shown})"


def _read(sample: Sample, report: ReadReport) -> Iterator[Document]:
    delimiter = _delimiter(sample.head.split("\n", 1)[0])
    with open_text(sample.file, sample.encoding) as (file, _):
        rows = _rows(_short_lines(file), delimiter)
        header = [name.strip() for name in next(rows, [])]
        wanted = _wanted(header, sample.column)
        while True:
            number = rows.line_num + 1  # a cell may hold several lines
            try:
                row = next(rows)
            except StopIteration:
                return
            except csv.Error as error:
                report.bad_line(sample.name, number, str(error))
                continue
            cells = dict(zip(header, row, strict=False))
            record = {key: cells.get(column, "") for key, column in wanted.items()}
            if not any(value.strip() for value in record.values()):
                continue
            try:
                for document in documents_of_record(record, sample.name):
                    yield replace(document, record_line=number)
            except Unusable as why:
                report.bad_line(sample.name, number, str(why))


def _wanted(header: list[str], column: str | None) -> dict[str, str]:
    """Which column gives which key of a record; empty where it cannot be known."""
    names = {name.strip().casefold(): name.strip() for name in header}
    if column is not None:
        found = names.get(column.strip().casefold())
        return {"text": found} if found is not None else {}
    for pair in _PAIRS:
        if all(name in names for name in pair):
            keys = (*pair, "input") if "input" in names and pair[0] == "instruction" else pair
            return {key: names[key] for key in keys}
    found = next((names[name] for name in _TEXT_COLUMNS if name in names), None)
    return {"text": found} if found is not None else {}


def _delimiter(line: str) -> str:
    return max(_DELIMITERS, key=line.count)


def _is_regular(lines: list[str]) -> bool:
    counts = [line.count("\t") for line in lines[:-1] if line.strip()][:20]
    return len(counts) >= 3 and counts[0] > 0 and len(set(counts)) == 1


def _rows(lines: Iterable[str], delimiter: str) -> Rows:
    csv.field_size_limit(MAX_CELL_CHARS)
    return csv.reader(lines, delimiter=delimiter)


def _short_lines(file: TextIO) -> Iterator[str]:
    """NUL ends a line for the csv module of older Pythons; a line without end would fill the memory."""
    while line := file.readline(MAX_CELL_CHARS):
        yield line.replace("\0", "")


TABLE = Reader("table", _recognises, _read)
