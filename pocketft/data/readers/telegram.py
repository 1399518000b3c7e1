"""Telegram's result.json, of one chat or of a whole account (exported as machine-readable JSON)."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from pocketft.data.documents import Message, ReadReport
from pocketft.data.encoding import without_surrogates
from pocketft.data.readers.json_stream import ITEM, Path, shape, values
from pocketft.data.readers.reader import Reader, Sample
from pocketft.data.readers.times import parse_time

_ACCOUNT = {"about", "personal_information", "chats", "left_chats", "contacts", "profile_pictures"}
_LISTS = ("chats", "left_chats")


def _recognises(sample: Sample) -> bool:
    seen = shape(sample.head)
    if seen.kind != "object":
        return False
    return {"name", "type", "id"} <= seen.keys or len(seen.keys & _ACCOUNT) >= 2 or seen.keys == {"chats"}


def _read(sample: Sample, report: ReadReport) -> Iterator[Message]:
    owner, room = "", ""
    for path, value in values(sample, report, _wanted, _enter):
        if path[0] == "personal_information":
            owner = f"user{value.get('user_id')}" if isinstance(value, dict) else ""
        elif path[-1] == "type" and value == "saved_messages":  # has no name
            room = "saved messages"
        elif path[-1] == "name":
            room = value if isinstance(value, str) else ""
        elif path[-1] == ITEM and (message := _message(value, without_surrogates(room), owner)):
            yield message


def _enter(path: Path) -> bool:
    """Down to the messages of one chat, or of every chat in a list of them."""
    if not path or path == ("messages",):
        return True
    return path[0] in _LISTS and (len(path) <= 3 if path[-1] != "messages" else len(path) == 4) and _on_the_way(path)


def _on_the_way(path: Path) -> bool:
    return all(got == expected for got, expected in zip(path[1:], ("list", ITEM, "messages"), strict=False))


def _wanted(path: Path) -> bool:
    if path in (("name",), ("type",), ("messages", ITEM), ("personal_information",)):
        return True
    of_chat = path[3:] in (("name",), ("type",), ("messages", ITEM))
    return of_chat and path[0] in _LISTS and path[1:3] == ("list", ITEM)


def _message(value: Any, room: str, owner: str) -> Message | None:
    if not isinstance(value, dict) or value.get("type") != "message" or value.get("forwarded_from"):
        return None  # somebody joined; or the words are not the sender's own
    author, text = value.get("from"), _text(value.get("text")).strip()
    if not isinstance(author, str) or not author or not text:
        return None
    time_s = parse_time(value.get("date_unixtime")) or parse_time(value.get("date"))
    sender = value.get("from_id")
    mine = bool(owner) and sender == owner
    return Message(without_surrogates(author), without_surrogates(text), time_s, room, mine=mine)


def _text(value: Any) -> str:
    """A string, or a list of strings and of objects for links, mentions and emphasis."""
    if isinstance(value, str):
        return value
    if not isinstance(value, list):
        return ""
    pieces = (piece.get("text") if isinstance(piece, dict) else piece for piece in value)
    return "".join(piece for piece in pieces if isinstance(piece, str))


TELEGRAM = Reader("telegram", _recognises, _read, people=True)
