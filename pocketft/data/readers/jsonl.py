"""JSON Lines: one object a line with `text`, `messages` or `prompt` and `completion`.

A line that cannot be used is told to the report with its number and skipped; nothing in a file stops the reading.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from typing import Any

from pocketft.data.documents import Document, ReadReport, Turn
from pocketft.data.encoding import open_text, without_surrogates
from pocketft.data.readers.reader import Reader, Sample
from pocketft.data.readers.text import documents_of_text, remark_encoding

MAX_LINE_CHARS = 8 << 20  # a longer line is no record of anybody's; it would only fill the memory
ROLES = ("system", "developer", "user", "assistant", "tool")
_NAMES = (".jsonl", ".ndjson", ".jsonlines")
_KEYS = ("text", "messages", "prompt", "completion")
_EXPECTED = "an object with text, messages, or prompt and completion"


class _Unusable(Exception):
    """Why a line is skipped."""


def _recognises(sample: Sample) -> bool | str:
    named = sample.path.suffix.lower() in _NAMES
    lines = [line for line in sample.head.split("\n") if line.strip()]
    if not sample.whole and len(lines) > 1:
        lines.pop()  # cut off by the sample's end
    if not named and not lines:
        return False
    if not named and not lines[0].lstrip().startswith("{"):
        if sample.path.suffix.lower() == ".json" and lines[0].lstrip().startswith("["):
            return "JSON array (JSON Lines has one object a line)"
        return False
    if named or any(_is_object(line) for line in lines[:5]):
        return True
    return "JSON document (JSON Lines has one object a line)" if sample.path.suffix.lower() == ".json" else False


def _read(sample: Sample, report: ReadReport) -> Iterator[Document]:
    number = 0
    with open_text(sample.path, sample.encoding) as (file, decoded):
        while line := file.readline(MAX_LINE_CHARS):
            number += 1
            if len(line) == MAX_LINE_CHARS and not line.endswith("\n"):
                while (rest := file.readline(MAX_LINE_CHARS)) and not rest.endswith("\n"):
                    pass
                report.bad_line(sample.name, number, f"longer than {MAX_LINE_CHARS >> 20} million characters")
                continue
            if not line.strip():
                continue
            try:
                yield from _documents(line, sample.name)
            except _Unusable as why:
                report.bad_line(sample.name, number, str(why))
    remark_encoding(decoded, sample, report)


def _documents(line: str, source: str) -> Iterator[Document]:
    try:
        record = json.loads(line)
    except RecursionError:
        raise _Unusable("nested too deeply") from None
    except ValueError as error:
        reason = getattr(error, "msg", None) or "a number too long"
        raise _Unusable(f"not JSON: {reason[:1].lower()}{reason[1:]}") from None
    if not isinstance(record, dict):
        raise _Unusable(f"not {_EXPECTED}")
    if isinstance(messages := record.get("messages"), list):
        yield _chat(_turns(messages, "messages"), record, source)
    elif "prompt" in record and "completion" in record:
        turns = _side(record["prompt"], "prompt", "user") + _side(record["completion"], "completion", "assistant")
        yield _chat(turns, record, source)
    elif "text" in record:
        text = record["text"]
        if not isinstance(text, str):
            raise _Unusable("text is not a string")
        if not text.strip():
            raise _Unusable("text is empty")
        yield from documents_of_text([without_surrogates(text)], source)
    else:
        raise _Unusable(f"not {_EXPECTED}")


def _chat(turns: tuple[Turn, ...], record: Mapping[str, Any], source: str) -> Document:
    if not any(turn.role == "assistant" and (turn.text.strip() or turn.fields.get("tool_calls")) for turn in turns):
        raise _Unusable("no words of an assistant to learn from")
    tools = record.get("tools")
    tools = tuple(tool for tool in tools if isinstance(tool, dict)) if isinstance(tools, list) else ()
    return Document(source, turns=turns, tools=tools)


def _side(value: Any, key: str, role: str) -> tuple[Turn, ...]:
    """A prompt or completion: a string, or a list of messages."""
    if isinstance(value, str):
        if not value.strip():
            raise _Unusable(f"{key} is empty")
        return (Turn(role, without_surrogates(value)),)
    if isinstance(value, list):
        return _turns(value, key)
    raise _Unusable(f"{key} is not a string")


def _turns(messages: list[Any], key: str) -> tuple[Turn, ...]:
    if not messages:
        raise _Unusable(f"{key} is empty")
    return tuple(_turn(message, f"{key}[{index}]") for index, message in enumerate(messages))


def _turn(message: Any, where: str) -> Turn:
    if not isinstance(message, dict) or not isinstance(message.get("role"), str):
        raise _Unusable(f"{where} has no role")
    role = message["role"]
    if role not in ROLES:
        raise _Unusable(f"{where} has the unknown role {role[:20]!r}")
    content = message.get("content")
    if isinstance(content, list):  # parts, as in requests to chat services: the text ones are what a text model sees
        texts = (part.get("text") for part in content if isinstance(part, dict))
        content = "".join(text for text in texts if isinstance(text, str))
    if content is None and message.get("tool_calls"):
        content = ""
    if not isinstance(content, str):
        raise _Unusable(f"{where} has no content")
    fields = {name: value for name, value in message.items() if name not in ("role", "content")}
    return Turn(role, without_surrogates(content), fields)


def _is_object(line: str) -> bool:
    try:
        record = json.loads(line)
    except (ValueError, RecursionError):
        return False
    return isinstance(record, dict) and any(key in record for key in _KEYS)


JSONL = Reader("jsonl", _recognises, _read)
