"""Records that people train on, in the forms that other tools wrote: one JSON object is one document.

text                                   plain text
messages: [{role, content}]            OpenAI
prompt, completion                     strings or lists of messages
conversations: [{from, value}]         ShareGPT
instruction, input, output             Alpaca
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from pocketft.data.documents import Document, Turn
from pocketft.data.encoding import without_surrogates
from pocketft.data.readers.text import documents_of_text

ROLES = ("system", "developer", "user", "assistant", "tool")
KEYS = ("text", "messages", "prompt", "completion", "conversations", "conversation", "instruction", "output")
EXPECTED = "an object with text, messages, or prompt and completion"

_OTHER_NAMES = {"human": "user", "gpt": "assistant", "chatgpt": "assistant", "bot": "assistant", "model": "assistant",
                "function": "tool", "observation": "tool", "ai": "assistant"}  # fmt: skip


class Unusable(Exception):
    """Why a record is skipped."""


def is_record(value: Any) -> bool:
    return isinstance(value, dict) and any(key in value for key in KEYS)


def documents_of_record(record: Any, source: str) -> Iterator[Document]:
    """Raises Unusable."""
    if not isinstance(record, dict):
        raise Unusable(f"not {EXPECTED}")
    shared = record.get("conversations", record.get("conversation"))
    if isinstance(messages := record.get("messages"), list):
        yield _chat(_turns(messages, "messages"), record, source)
    elif isinstance(shared, list):
        key = "conversations" if "conversations" in record else "conversation"
        turns = _turns(shared, key)
        system = record.get("system")
        if isinstance(system, str) and system.strip():
            turns = (Turn("system", without_surrogates(system)), *turns)
        yield _chat(turns, record, source)
    elif "prompt" in record and "completion" in record:
        turns = _side(record["prompt"], "prompt", "user") + _side(record["completion"], "completion", "assistant")
        yield _chat(turns, record, source)
    elif "instruction" in record and "output" in record:
        asked, given = record["instruction"], record.get("input")
        if isinstance(asked, str) and isinstance(given, str) and given.strip():
            asked = f"{asked}\n\n{given}"
        turns = _side(asked, "instruction", "user") + _side(record["output"], "output", "assistant")
        yield _chat(turns, record, source)
    elif "text" in record:
        text = record["text"]
        if not isinstance(text, str):
            raise Unusable("text is not a string")
        if not text.strip():
            raise Unusable("text is empty")
        yield from documents_of_text([without_surrogates(text)], source)
    else:
        raise Unusable(f"not {EXPECTED}")


def _chat(turns: tuple[Turn, ...], record: Mapping[str, Any], source: str) -> Document:
    if not any(turn.role == "assistant" and (turn.text.strip() or turn.fields.get("tool_calls")) for turn in turns):
        raise Unusable("no words of an assistant to learn from")
    tools = record.get("tools")
    tools = tuple(tool for tool in tools if isinstance(tool, dict)) if isinstance(tools, list) else ()
    return Document(source, turns=turns, tools=tools)


def _side(value: Any, key: str, role: str) -> tuple[Turn, ...]:
    """A prompt or completion: a string, or a list of messages."""
    if isinstance(value, str):
        if not value.strip():
            raise Unusable(f"{key} is empty")
        return (Turn(role, without_surrogates(value)),)
    if isinstance(value, list):
        return _turns(value, key)
    raise Unusable(f"{key} is not a string")


def _turns(messages: list[Any], key: str) -> tuple[Turn, ...]:
    if not messages:
        raise Unusable(f"{key} is empty")
    return tuple(_turn(message, f"{key}[{index}]") for index, message in enumerate(messages))


def _turn(message: Any, where: str) -> Turn:
    if isinstance(message, dict) and "role" not in message and "from" in message:  # ShareGPT
        others = {name: value for name, value in message.items() if name not in ("from", "value", "weight")}
        message = {"role": message["from"], "content": message.get("value"), **others}
        if isinstance(name := message["role"], str):
            message["role"] = _OTHER_NAMES.get(name, name)
    if not isinstance(message, dict) or not isinstance(message.get("role"), str):
        raise Unusable(f"{where} has no role")
    role = message["role"]
    if role not in ROLES:
        raise Unusable(f"{where} has the unknown role {role[:20]!r}")
    content = message.get("content")
    if isinstance(content, list):  # parts, as in requests to chat services: the text ones are what a text model sees
        texts = (part.get("text") for part in content if isinstance(part, dict))
        content = "".join(text for text in texts if isinstance(text, str))
    if content is None and message.get("tool_calls"):
        content = ""
    if not isinstance(content, str):
        raise Unusable(f"{where} has no content")
    fields = {name: value for name, value in message.items() if name not in ("role", "content")}
    return Turn(role, without_surrogates(content), fields)
