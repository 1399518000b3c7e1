"""Prepared documents as JSON Lines: what would be learned, for another tool or another pair of eyes.

A text that comes in parts is written in parts: nothing is held whole.
"""

from __future__ import annotations

import json
from collections.abc import Iterable
from typing import Any, TextIO

from pocketft.data.documents import Document


def write_documents(documents: Iterable[Document], file: TextIO) -> int:
    """One line a document: `text` or `messages`, with what is known of source, title and time. Returns how many."""
    count = 0
    inside = False  # a text whose line has not ended
    for document in documents:
        if inside and document.part == 0:  # its last part was left out on the way here
            file.write('"}\n')
            inside = False
        if document.turns:
            file.write(json.dumps(_about(document) | _chat(document), ensure_ascii=False) + "\n")
            count += 1
            continue
        if not inside:
            opening = json.dumps(_about(document) | {"text": ""}, ensure_ascii=False)
            file.write(opening[:-2])
            count += 1
        file.write(json.dumps(document.text, ensure_ascii=False)[1:-1])
        inside = not document.last
        if document.last:
            file.write('"}\n')
    if inside:
        file.write('"}\n')
    return count


def _about(document: Document) -> dict[str, Any]:
    about = {"source": document.source, "title": document.title, "time_s": document.time_s}
    return {key: value for key, value in about.items() if value is not None}


def _chat(document: Document) -> dict[str, Any]:
    messages = [{"role": turn.role, "content": turn.text, **turn.fields} for turn in document.turns]
    return {"messages": messages, **({"tools": list(document.tools)} if document.tools else {})}
