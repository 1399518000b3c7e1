"""Claude's conversations.json: every conversation with the roles that it has."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from pocketft.data.documents import Document, ReadReport, Turn
from pocketft.data.encoding import without_surrogates
from pocketft.data.readers.json_stream import shape, values
from pocketft.data.readers.reader import Reader, Sample
from pocketft.data.readers.times import parse_time

_ROLES = {"human": "user", "assistant": "assistant"}


def _recognises(sample: Sample) -> bool:
    return "chat_messages" in shape(sample.head).keys


def _read(sample: Sample, report: ReadReport) -> Iterator[Document]:
    depth = 1 if shape(sample.head).kind == "array" else 0
    found = values(sample, report, lambda path: len(path) == depth, lambda path: len(path) < depth)
    for number, (_, conversation) in enumerate(found, start=1):
        messages = conversation.get("chat_messages") if isinstance(conversation, dict) else None
        if not isinstance(messages, list):
            report.bad_line(sample.name, number, "not a conversation")
            continue
        turns = tuple(turn for turn in map(_turn, messages) if turn is not None)
        if not any(turn.role == "assistant" for turn in turns):
            report.remarks["conversations without an answer, left out"] += 1
            continue
        title = conversation.get("name")
        yield Document(
            sample.name,
            turns=turns,
            title=without_surrogates(title) if isinstance(title, str) and title else None,
            time_s=parse_time(conversation.get("created_at")),
        )


def _turn(message: Any) -> Turn | None:
    sender = message.get("sender") if isinstance(message, dict) else None
    if not isinstance(sender, str) or sender not in _ROLES:
        return None
    parts = message.get("content")
    said = [part.get("text") for part in parts if isinstance(part, dict)] if isinstance(parts, list) else []
    text = "\n".join(part for part in said if isinstance(part, str)) or message.get("text")
    if not isinstance(text, str) or not text.strip():
        return None
    return Turn(_ROLES[sender], without_surrogates(text))


CLAUDE = Reader("claude", _recognises, _read)
