"""Mail: .mbox files, single .eml files and Maildir folders; the writer's own words of every message.

Holds one message, and of that no more than its first megabytes, where the words are.
"""

from __future__ import annotations

import email
import email.errors
import email.header
import email.message
import email.utils
import re
from collections.abc import Iterator
from contextlib import suppress
from pathlib import PurePosixPath
from typing import IO

from pocketft.data.documents import Message, ReadReport
from pocketft.data.encoding import without_surrogates
from pocketft.data.readers.html import text_of
from pocketft.data.readers.mail_words import own_words
from pocketft.data.readers.reader import Reader, Sample
from pocketft.errors import PocketftError

MAX_MAIL_BYTES = 2 << 20  # what lies beyond is attachments
MAX_LINE_BYTES = 1 << 16
_BOM = b"\xef\xbb\xbf"
_FROM = re.compile(rb"\A\s*From \S.*\n(?:>From .*\n)?[A-Za-z][A-Za-z0-9-]*:")
_HEADERS = re.compile(rb"\A(?:[!-9;-~]+:[^\n]*\n(?:[ \t][^\n]*\n)*)+")
_NAME = re.compile(rb"^([!-9;-~]+):", re.MULTILINE)
_OF_MAIL = {b"date", b"to", b"subject", b"message-id", b"received", b"return-path", b"mime-version", b"delivered-to"}
_SENT = {"sent", "sent items", "sent messages", "sent mail", "gesendet", "gesendete objekte", "enviados", "envoyés"}
_ADDRESS = re.compile(r"[^\s<>,;:\"()]+@[^\s<>,;:\"()]+")
_REPLY = re.compile(r"^(?:(?:re|aw|antw|sv|fwd?|wg|tr|rv)(?:\[\d+\])?\s*:\s*)+", re.IGNORECASE)


def _recognises(sample: Sample) -> bool:
    if _is_mbox(sample):
        return True
    headers = _HEADERS.match(_start(sample).lstrip(b"\n"))
    if not headers:
        return False
    names = {name.lower() for name in _NAME.findall(headers[0])}
    return b"from" in names and len(names & _OF_MAIL) >= 2


def _is_mbox(sample: Sample) -> bool:
    """Several mails with a "From " line before each; elsewhere a line that begins so is a sentence."""
    return _FROM.match(_start(sample)) is not None


def _start(sample: Sample) -> bytes:
    return sample.start.replace(b"\r\n", b"\n").removeprefix(_BOM)


def _read(sample: Sample, report: ReadReport) -> Iterator[Message]:
    folder = PurePosixPath(sample.name)
    sent = any(part.lower().strip(".") in _SENT for part in (*folder.parts[:-1], folder.stem))
    with sample.file.open() as stream:
        for data in _mails(stream, report, mbox=_is_mbox(sample)):
            try:
                message = _message(data, sent, report)
            except (PocketftError, MemoryError):
                raise
            except Exception as error:  # the email package raises whatever its parts raise at damaged mail
                report.remarks[f"mails that cannot be read ({type(error).__name__})"] += 1
                continue
            if message is not None:
                yield message


def _mails(stream: IO[bytes], report: ReadReport, *, mbox: bool) -> Iterator[bytes]:
    """The messages of an mbox, each without its "From " line; of any other file, all of it."""
    lines: list[bytes] = []
    size = 0
    after_blank = True
    while line := stream.readline(MAX_LINE_BYTES):
        if mbox and after_blank and line.startswith(b"From "):
            if lines:
                yield b"".join(lines)
            lines, size = [], 0
        elif size < MAX_MAIL_BYTES:
            if mbox and line.startswith(b">From "):
                line = line[1:]
            lines.append(line)
            size += len(line)
            if size >= MAX_MAIL_BYTES:
                report.remarks["mails so long that only their beginning was read"] += 1
        after_blank = line in (b"\n", b"\r\n")
    if lines:
        yield b"".join(lines)


def _message(data: bytes, sent: bool, report: ReadReport) -> Message | None:
    mail = email.message_from_bytes(data)
    if mail.get("Auto-Submitted", "no").lower() != "no" or mail.get("Precedence", "").lower() in ("bulk", "junk"):
        report.remarks["mails sent by machines, left out"] += 1
        return None
    name, address = email.utils.parseaddr(_decoded(mail.get("From")))
    text = own_words(_body(mail))
    if not text:
        report.remarks["mails without words of their own, left out"] += 1
        return None
    labels = _decoded(mail.get("X-Gmail-Labels")).lower().split(",")
    return Message(
        author=name or address or "somebody",
        text=without_surrogates(text),
        time_s=_time(mail.get("Date")),
        answers=_REPLY.sub("", _decoded(mail.get("Subject"))).strip(),
        mine=sent or any(label.strip() in _SENT for label in labels),
        address=address,
        receivers=tuple(_receivers(mail)),
    )


def _body(mail: email.message.Message) -> str:
    """The first part in plain text that is no attachment; else the first in HTML."""
    html = ""
    for part in mail.walk():
        kind = part.get_content_type()
        if part.is_multipart() or part.get_content_disposition() == "attachment":
            continue
        if kind == "text/plain":
            text = _text(part)
            if str(part.get_param("format") or "").lower() == "flowed":
                text = re.sub(r"(?<=[^\n-]) \n(?![>\n]|-- ?\n)", " ", text)
            if text.strip():
                return text
        elif kind == "text/html" and not html:
            html = _text(part)
    return text_of(html, mail=True)


def _text(part: email.message.Message) -> str:
    payload = part.get_payload(decode=True)
    if not isinstance(payload, bytes):
        return ""
    try:
        return payload.decode(part.get_content_charset() or "utf-8")
    except (LookupError, UnicodeError):
        try:
            return payload.decode("utf-8")
        except UnicodeDecodeError:
            return payload.decode("cp1252", "replace")


def _receivers(mail: email.message.Message) -> Iterator[str]:
    for name in ("To", "Cc", "Delivered-To", "X-Original-To"):
        for value in mail.get_all(name, []):
            yield from _ADDRESS.findall(str(value))  # addresses are never encoded, and this is all that is needed


def _decoded(value: object) -> str:
    """A header as it reads: "=?utf-8?q?Gr=C3=BC=C3=9Fe?=" is "Grüße"."""
    if value is None:
        return ""
    text = str(value)
    if "=?" not in text:
        return " ".join(without_surrogates(text).split())
    with suppress(email.errors.HeaderParseError, LookupError, UnicodeError, ValueError):
        text = str(email.header.make_header(email.header.decode_header(text)))
    return " ".join(without_surrogates(text).split())


def _time(value: object) -> float | None:
    try:
        return email.utils.parsedate_to_datetime(str(value)).timestamp()
    except (ValueError, TypeError, OverflowError, OSError):
        return None


MAIL = Reader("mail", _recognises, _read, people=True)
