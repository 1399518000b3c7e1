"""Discord: channels saved by DiscordChatExporter as JSON, and messages.json of the data package that Discord sends."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from pocketft.data.documents import Message, ReadReport
from pocketft.data.encoding import without_surrogates
from pocketft.data.readers.json_stream import ITEM, Path, shape, values
from pocketft.data.readers.reader import Reader, Sample
from pocketft.data.readers.times import parse_time

_SPOKEN = ("Default", "Reply")  # not: a member joined, a message was pinned


def _recognises(sample: Sample) -> bool:
    seen = shape(sample.head)
    return {"guild", "channel"} <= seen.keys or (seen.kind == "array" and {"ID", "Timestamp", "Contents"} <= seen.keys)


def _read(sample: Sample, report: ReadReport) -> Iterator[Message]:
    if shape(sample.head).kind == "array":
        for _, value in values(sample, report, lambda path: len(path) == 1, lambda path: not path):
            if message := _own(value, sample.name):
                yield message
        return
    room = ""
    for path, value in values(sample, report, _wanted, lambda path: not path or path == ("messages",)):
        if path == ("channel",):
            room = value["name"] if isinstance(value, dict) and isinstance(value.get("name"), str) else ""
        elif message := _message(value, without_surrogates(room)):
            yield message


def _wanted(path: Path) -> bool:
    return path in (("channel",), ("messages", ITEM))


def _message(value: Any, room: str) -> Message | None:
    author = value.get("author") if isinstance(value, dict) else None
    if not isinstance(author, dict) or author.get("isBot") or value.get("type", "Default") not in _SPOKEN:
        return None
    name, handle, text = author.get("nickname") or author.get("name"), author.get("name"), value.get("content")
    if not isinstance(name, str) or not isinstance(text, str) or not text.strip():
        return None
    return Message(
        without_surrogates(name),
        without_surrogates(text.strip()),
        parse_time(value.get("timestamp")),
        room,
        address=without_surrogates(handle) if isinstance(handle, str) else "",
    )


def _own(value: Any, room: str) -> Message | None:
    """The package holds what its owner wrote, and nothing of others."""
    text = value.get("Contents") if isinstance(value, dict) else None
    if not isinstance(text, str) or not text.strip():
        return None
    return Message("you", without_surrogates(text.strip()), parse_time(value.get("Timestamp")), room, mine=True)


DISCORD = Reader("discord", _recognises, _read, people=True)
