"""WhatsApp's exported chats (.txt), from Android and from iPhones, with dates in any order of day and month."""

from __future__ import annotations

import re
from collections.abc import Iterator
from datetime import datetime, timezone
from pathlib import PurePosixPath

from pocketft.data.documents import Message, ReadReport
from pocketft.data.encoding import open_text
from pocketft.data.readers.reader import Reader, Sample

MAX_MESSAGE_CHARS = 65_536
_SPACES = "[ \u00a0\u202f]"
_DATE = r"(\d{1,4})([./-]) ?(\d{1,2})[./-] ?(\d{1,4})\.?"
_TIME = rf"(\d{{1,2}})[:.](\d\d)(?:[:.](\d\d))?(?:{_SPACES}?([aApP])\.?{_SPACES}?[mM]\.?)?"
# "[31.12.23, 21:41:12] Anna: …" on iPhones, "12/31/23, 9:41 PM - Anna: …" on Android
_START = re.compile(
    rf"[\u200e\u200f\ufeff]*(?:\[{_DATE},?{_SPACES}{_TIME}\]{_SPACES}|{_DATE},?{_SPACES}{_TIME}{_SPACES}[-–]{_SPACES})"
)
_AUTHOR = re.compile(r"[\u200e\u200f]*([^:\n]{1,80}?): ?")
_MARK = "\u200e"  # written by the program, not by a person: media, deleted messages, the notice on encryption
_NOT_SAID = re.compile(
    r"<[^<>\n]{3,60}>$|\S+\.(?:jpe?g|png|gif|webp|mp4|mov|3gp|opus|ogg|m4a|mp3|aac|pdf|vcf|docx?|xlsx?|pptx?|zip) ?"
    r"\([^)\n]{3,40}\)$|null$|(?:You deleted this message|This message was deleted"
    r"|Du hast diese Nachricht gelöscht|Diese Nachricht wurde gelöscht)\.?$"
    r"|(?:image|video|audio|sticker|GIF|document|Contact card|Bild|Video|Audio|Sticker|Dokument) "
    r"(?:omitted|weggelassen)$|(?:Missed (?:voice|video) call|Verpasster (?:Sprach|Video)anruf)\b.{0,40}$"
)
_EDITED = re.compile(r"\s*\u200e?<(?:This message was edited|Diese Nachricht wurde bearbeitet)>$")
_ROOM = re.compile(
    r"(?:WhatsApp[ _-]*)?Chat[ _-]+(?:(?:with|mit|con|avec|com|met|-)[ _]+)?(.+?)(?:\.txt|\.zip| ?\(\d+\))*$",
    re.IGNORECASE,
)


def _recognises(sample: Sample) -> bool:
    lines = [line for line in sample.head.split("\n", 40)[:40] if line.strip()]
    starts = sum(1 for line in lines if _START.match(line))
    return bool(lines) and bool(_START.match(lines[0])) and (starts >= 2 or len(lines) == 1)


def _read(sample: Sample, report: ReadReport) -> Iterator[Message]:
    month_first = _month_first(sample.head)
    room = _room(sample.name)
    with open_text(sample.file, sample.encoding) as (file, _):
        start: re.Match[str] | None = None
        said: list[str] = []
        chars = 0
        while line := file.readline(MAX_MESSAGE_CHARS):
            found = _START.match(line)
            if found:
                if start is not None and (message := _message(start, said, room, month_first)):
                    yield message
                start, said, chars = found, [line[found.end() :]], len(line)
            elif chars < MAX_MESSAGE_CHARS:
                said.append(line)
                chars += len(line)
        if start is not None and (message := _message(start, said, room, month_first)):
            yield message


def _message(start: re.Match[str], said: list[str], room: str, month_first: bool) -> Message | None:
    text = "".join(said).rstrip()
    named = _AUTHOR.match(text)
    if not named:
        return None  # "Anna added Ben"
    author, words = named[1].strip("\u200e\u200f\u202a\u202c ~\u202f\u00a0"), text[named.end() :]
    lines = words.split("\n")
    if lines[0].startswith(_MARK) or _NOT_SAID.match(lines[0].strip()):
        lines = lines[1:]  # the caption of a picture stands below it
    words = _EDITED.sub("", "\n".join(lines)).replace(_MARK, "").strip()
    if not words or not author:
        return None
    return Message(author, words, _time(start, month_first), room)


def _parts(start: re.Match[str]) -> tuple[str, ...]:
    """Of the date and the time: as on iPhones, else as on Android."""
    return start.groups()[:8] if start[1] else start.groups()[8:]


def _time(start: re.Match[str], month_first: bool) -> float | None:
    first, separator, second, third, hour, minute, seconds, half = _parts(start)
    if len(first) == 4:
        year, month, day = int(first), int(second), int(third)
    else:
        day, month, year = int(first), int(second), int(third)
        if month_first and separator != ".":
            day, month = month, day
    hours = int(hour) % 12 + (12 if half in "pP" else 0) if half else int(hour)
    try:
        moment = datetime(year + 2000 if year < 100 else year, month, day, hours, int(minute), int(seconds or 0))
    except ValueError:
        return None
    return moment.replace(tzinfo=timezone.utc).timestamp()


def _month_first(head: str) -> bool:
    """Whether 3/4 is the fourth of March: decided by a number above 12, else by the clock that is used."""
    clock = False
    for line in head.split("\n"):
        if match := _START.match(line):
            first, _, second, _, _, _, _, half = _parts(match)
            if int(first) > 12:
                return False
            if int(second) > 12:
                return True
            clock = clock or bool(half)
    return clock


def _room(name: str) -> str:
    """Who the chat is with, from the name of the file or of the archive it is in."""
    path = PurePosixPath(name)
    for part in (path.name, path.parent.name):
        if (match := _ROOM.match(part)) and match[1].strip(" _-"):
            return match[1].strip(" _-")
    return path.stem.strip("_")


WHATSAPP = Reader("whatsapp", _recognises, _read, people=True)
