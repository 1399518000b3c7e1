"""Slack's export: a folder for every channel with one JSON file a day; names come from users.json beside them."""

from __future__ import annotations

import io
import re
from collections.abc import Iterator, Mapping
from functools import lru_cache
from pathlib import PurePosixPath
from typing import Any

from pocketft.data.documents import Message, ReadReport
from pocketft.data.encoding import without_surrogates
from pocketft.data.readers.json_stream import DamagedJSON, shape, values, walk
from pocketft.data.readers.reader import Reader, Sample
from pocketft.data.readers.times import parse_time
from pocketft.data.sources import SourceFile

_LISTS = ("users.json", "channels.json", "groups.json", "dms.json", "mpims.json", "integration_logs.json",
          "canvases.json", "lists.json", "file_conversations.json", "org_users.json")  # fmt: skip
_MARKUP = re.compile(r"<([@#!]?)([^<>|\n]+)(?:\|([^<>\n]*))?>")
_SPOKEN = (None, "thread_broadcast", "me_message", "file_share")


def _recognises(sample: Sample) -> bool | str:
    seen = shape(sample.head)
    if seen.kind != "array":
        return False
    if PurePosixPath(sample.name).name in _LISTS and seen.keys & {"id", "user_id"}:
        return "list of a Slack export"
    return {"type", "ts"} <= seen.keys and bool(seen.keys & {"user", "text", "bot_id", "subtype"})


def _read(sample: Sample, report: ReadReport) -> Iterator[Message]:
    names = _names(sample.file.neighbour("../users.json"), report)
    room = PurePosixPath(sample.name).parent.name
    for _, value in values(sample, report, lambda path: len(path) == 1, lambda path: not path):
        if message := _message(value, names, room):
            yield message


def _message(value: Any, names: Mapping[str, str], room: str) -> Message | None:
    if not isinstance(value, dict) or value.get("type") != "message" or value.get("subtype") not in _SPOKEN:
        return None
    user, text = value.get("user"), value.get("text")
    if not isinstance(user, str) or not isinstance(text, str) or not text.strip():
        return None
    profile = value.get("user_profile")
    shown = _name(profile if isinstance(profile, dict) else {}) or names.get(user) or user
    said = without_surrogates(_plain(text, names).strip())
    return Message(without_surrogates(shown), said, parse_time(value.get("ts")), room, address=user)


def _plain(text: str, names: Mapping[str, str]) -> str:
    """Mentions by name, links as they were written."""

    def write(match: re.Match[str]) -> str:
        mark, target, label = match.groups()
        if mark == "@":
            return "@" + (label or names.get(target) or target)
        if mark:
            return mark.replace("!", "@") + (label or target)
        return label or target

    return _MARKUP.sub(write, text).replace("&lt;", "<").replace("&gt;", ">").replace("&amp;", "&")


def _names(users: SourceFile | None, report: ReadReport) -> Mapping[str, str]:
    """User id -> name. An export without the list is read with ids for names."""
    if users is None:
        return {}
    names, damage = _read_names(users)
    if damage and all(told.where != users.name for told in report.damaged):  # once, not for every day
        report.damage(users.name, f"{damage}; people without a name are shown by their id")
    return names


@lru_cache(maxsize=1)  # asked by the file of every day
def _read_names(users: SourceFile) -> tuple[dict[str, str], str]:
    """The names, and what is wrong with the list."""
    names: dict[str, str] = {}
    try:
        with io.TextIOWrapper(users.open(), encoding="utf-8", errors="replace") as text:
            for path, user in walk(text, lambda path: not path):
                if len(path) == 1 and isinstance(user, dict) and isinstance(user.get("id"), str):
                    profile = user.get("profile")
                    names[user["id"]] = _name(profile if isinstance(profile, dict) else {}) or _name(user)
    except (OSError, DamagedJSON) as error:
        return names, str(error)
    return names, ""


def _name(user: Mapping[str, Any]) -> str:
    for key in ("display_name", "real_name", "name"):
        if isinstance(name := user.get(key), str) and name.strip():
            return name
    return ""


SLACK = Reader("slack", _recognises, _read, people=True)
