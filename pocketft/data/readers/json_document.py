"""JSON arrays of the same records as JSON Lines, alone or under one key ("data", "examples").

The last of the readers of JSON: a document that none of them knows is named with what was seen in it.
"""

from __future__ import annotations

import json
from collections.abc import Iterator

from pocketft.data.documents import Document, ReadReport
from pocketft.data.readers.json_stream import ITEM, Path, shape, values
from pocketft.data.readers.reader import Reader, Sample
from pocketft.data.readers.records import KEYS, Unusable, documents_of_record

_WRAPPERS = ("data", "examples", "records", "items", "rows", "train")


def _recognises(sample: Sample) -> bool | str:
    seen = shape(sample.head)
    if not seen.kind or (sample.suffix != ".json" and not _looks_like_json(sample)):
        return False
    if seen.keys & set(KEYS) or (seen.kind == "object" and seen.keys & set(_WRAPPERS)):
        return True
    keys = ", ".join(sorted(seen.keys)[:6])[:80]
    return f"JSON {seen.kind} that is no export known here (keys: {keys or 'none'})"


def _looks_like_json(sample: Sample) -> bool:
    """Prose may begin with a bracket too."""
    if not sample.whole:
        return len(shape(sample.head).keys) >= 2
    try:
        json.loads(sample.head)
    except (ValueError, RecursionError):
        return False
    return True


def _read(sample: Sample, report: ReadReport) -> Iterator[Document]:
    if shape(sample.head).kind == "array":
        depth = 1
    else:
        depth = 0 if shape(sample.head).keys & set(KEYS) else 2
    found = values(
        sample,
        report,
        lambda path: _wanted(path, depth),
        lambda path: len(path) < depth and (not path or path[0] in (ITEM, *_WRAPPERS)),
    )
    for number, (_, record) in enumerate(found, start=1):
        try:
            yield from documents_of_record(record, sample.name)
        except Unusable as why:
            report.bad_line(sample.name, number, str(why))


def _wanted(path: Path, depth: int) -> bool:
    return len(path) == depth and (depth == 0 or path[-1] == ITEM)


JSON_DOCUMENT = Reader("json", _recognises, _read)
