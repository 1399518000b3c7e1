"""ChatGPT's conversations.json: every conversation along the branch that was shown last.

The export's turns have their roles already: the assistant's words are the assistant's.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from pocketft.data.documents import Document, ReadReport, Turn
from pocketft.data.encoding import without_surrogates
from pocketft.data.readers.json_stream import shape, values
from pocketft.data.readers.reader import Reader, Sample
from pocketft.data.readers.times import parse_time

_WORDS = ("text", "multimodal_text")  # not code run by tools, its output, or what was searched


def _recognises(sample: Sample) -> bool:
    seen = shape(sample.head)
    return "mapping" in seen.keys and bool(seen.keys & {"title", "create_time", "current_node"})


def _read(sample: Sample, report: ReadReport) -> Iterator[Document]:
    depth = 1 if shape(sample.head).kind == "array" else 0
    found = values(sample, report, lambda path: len(path) == depth, lambda path: len(path) < depth)
    for number, (_, conversation) in enumerate(found, start=1):
        if not isinstance(conversation, dict):
            report.bad_line(sample.name, number, "not a conversation")
            continue
        turns = tuple(_turns(conversation))
        if not any(turn.role == "assistant" for turn in turns):
            report.remarks["conversations without an answer, left out"] += 1
            continue
        title = conversation.get("title")
        yield Document(
            sample.name,
            turns=turns,
            title=without_surrogates(title) if isinstance(title, str) else None,
            time_s=parse_time(conversation.get("create_time")),
        )


def _turns(conversation: Mapping[str, Any]) -> Iterator[Turn]:
    """From the last node shown up to the root, told from the root on."""
    nodes = conversation.get("mapping")
    if not isinstance(nodes, dict):
        return
    branch: list[Turn] = []
    name = conversation.get("current_node") or next(reversed(nodes), None)
    seen = set()
    while isinstance(name, str) and name not in seen and isinstance(node := nodes.get(name), dict):
        seen.add(name)
        turn = _turn(node.get("message"))
        if turn is not None:
            branch.append(turn)
        name = node.get("parent")
    yield from reversed(branch)


def _turn(message: Any) -> Turn | None:
    if not isinstance(message, dict):
        return None
    author, content = message.get("author"), message.get("content")
    role = author.get("role") if isinstance(author, dict) else None
    if role not in ("user", "assistant") or not isinstance(content, dict) or content.get("content_type") not in _WORDS:
        return None
    if message.get("recipient") not in (None, "all"):  # said to a tool
        return None
    parts = content.get("parts")
    text = "\n".join(part for part in parts if isinstance(part, str)) if isinstance(parts, list) else ""
    return Turn(str(role), without_surrogates(text)) if text.strip() else None


CHATGPT = Reader("chatgpt", _recognises, _read)
