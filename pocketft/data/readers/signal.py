"""Signal: main.jsonl of the desktop program's own export, and the JSON of signal-export and like tools."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from pathlib import PurePosixPath
from typing import Any

from pocketft.data.documents import Message, ReadReport
from pocketft.data.encoding import open_text, without_surrogates
from pocketft.data.readers.json_stream import ITEM, Path, shape, values
from pocketft.data.readers.reader import Reader, Sample
from pocketft.data.readers.times import parse_time

MAX_LINE_CHARS = 8 << 20
_AUTHOR_KEYS = ("sender", "source", "sourceName", "from", "type")
_TIME_KEYS = ("date", "sent_at", "timestamp", "dateSent")
_FRAMES = ("version", "account", "recipient", "chat", "chatItem", "stickerPack", "adHocCall", "notificationProfile")


def _recognises(sample: Sample) -> bool:
    seen = shape(sample.head)
    keys = seen.keys
    if seen.kind == "object" and not _is_message(keys):  # of one object, or of the first line
        first = _object(sample.head.lstrip().partition("\n")[0])
        if keys & {"version", "mediaRootBackupKey"} and {"version", "backupTimeMs"} <= keys:
            return True
        if first and len(first) == 1 and next(iter(first)) in _FRAMES and '"chatItem"' in sample.head:
            return True
        return "messages" in keys and '"conversationId"' in sample.head and '"body"' in sample.head
    return _is_message(keys)


def _is_message(keys: frozenset[str]) -> bool:
    return "body" in keys and any(key in keys for key in _AUTHOR_KEYS) and any(key in keys for key in _TIME_KEYS)


def _read(sample: Sample, report: ReadReport) -> Iterator[Message]:
    room = PurePosixPath(sample.name).parent.name
    seen = shape(sample.head)
    if seen.kind == "array":
        found = values(sample, report, lambda path: len(path) == 1, lambda path: not path)
        yield from _told(found, lambda value: _message(value, room))
    elif "messages" in seen.keys:
        found = values(sample, report, _wanted, lambda path: not path or path == ("messages",))
        yield from _told(found, lambda value: _message(value, room))
    else:
        yield from _lines(sample, report, room)


def _wanted(path: Path) -> bool:
    return path == ("messages", ITEM)


def _told(found: Iterator[tuple[Path, Any]], message_of: Callable[[Any], Message | None]) -> Iterator[Message]:
    for _, value in found:
        if message := message_of(value):
            yield message


def _lines(sample: Sample, report: ReadReport, room: str) -> Iterator[Message]:
    names: dict[str, str] = {}  # of recipients, by id
    rooms: dict[str, str] = {}  # recipient ids, by chat
    with open_text(sample.file, sample.encoding) as (file, _):
        number = 0
        while line := file.readline(MAX_LINE_CHARS):
            number += 1
            record = _object(line)
            if record is None:
                if line.strip():
                    report.bad_line(sample.name, number, "not a JSON object")
            elif isinstance(recipient := record.get("recipient"), dict):
                names[str(recipient.get("id"))] = _recipient_name(recipient)
            elif isinstance(chat := record.get("chat"), dict):
                rooms[str(chat.get("id"))] = str(chat.get("recipientId"))
            elif isinstance(item := record.get("chatItem"), dict):
                if message := _chat_item(item, names, rooms):
                    yield message
            elif message := _message(record, room):
                yield message


def _chat_item(item: dict[str, Any], names: dict[str, str], rooms: dict[str, str]) -> Message | None:
    standard = item.get("standardMessage")
    text = standard.get("text") if isinstance(standard, dict) else None
    body = text.get("body") if isinstance(text, dict) else None
    if not isinstance(body, str) or not body.strip():
        return None
    mine = "outgoing" in item
    chat = str(item.get("chatId"))
    author = "you" if mine else names.get(str(item.get("authorId"))) or "somebody"
    room = names.get(rooms.get(chat, "")) or f"chat {chat}"
    return Message(author, without_surrogates(body.strip()), parse_time(item.get("dateSent")), room, mine=mine)


def _recipient_name(recipient: dict[str, Any]) -> str:
    for kind in ("contact", "group", "distributionList"):
        about = recipient.get(kind)
        if not isinstance(about, dict):
            continue
        first, last = about.get("profileGivenName"), about.get("profileFamilyName")
        whole = " ".join(part for part in (first, last) if isinstance(part, str) and part)
        snapshot = about.get("snapshot")
        title = snapshot.get("title") if isinstance(snapshot, dict) else about.get("name")
        if isinstance(title, dict):
            title = title.get("title")
        for name in (whole, title, about.get("e164")):
            if isinstance(name, (str, int)) and str(name):
                return without_surrogates(str(name))
    return ""


def _message(value: Any, room: str) -> Message | None:
    text = value.get("body") if isinstance(value, dict) else None
    if not isinstance(text, str) or not text.strip():
        return None
    kind = value.get("type")
    author = next((name for key in _AUTHOR_KEYS[:-1] if isinstance(name := value.get(key), str) and name), "somebody")
    # signal-export calls the owner "Me"; the database knows directions.
    mine = kind == "outgoing" or (author == "Me" and "sender" in value)
    time_s = next((time for key in _TIME_KEYS if (time := parse_time(value.get(key))) is not None), None)
    where = value.get("conversationName") or value.get("conversationId") or room
    return Message(
        "you" if mine else without_surrogates(author),
        without_surrogates(text.strip()),
        time_s,
        without_surrogates(str(where)),
        mine=mine,
    )


def _object(line: str) -> dict[str, Any] | None:
    try:
        value = json.loads(line)
    except (ValueError, RecursionError):
        return None
    return value if isinstance(value, dict) else None


SIGNAL = Reader("signal", _recognises, _read, people=True)
