"""From documents to the token set on disk: token ids, one mark a token, and where each document begins.

Streams: holds two batches of text and writes as it goes, so memory grows with neither a file's size nor the number of
files. While one batch is tokenized, by the library's own threads, the next is read. Knows nothing of row lengths, of
what is held out, or of packing.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import ExitStack
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from types import TracebackType
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pocketft.data.borders import NONE, PARAGRAPH, PART_CHARS, SENTENCE, part_end, token_levels
from pocketft.data.chat import CannotFollow, ChatTemplate, RenderedChat, plain_template
from pocketft.data.documents import Document, ReadReport
from pocketft.data.layout import DOCUMENT, LEVEL_SHIFT, LOSS_BIT
from pocketft.data.tokenizer import Encoded, TextTokenizer, load_text_tokenizer
from pocketft.data.tokenizer_files import chat_template_source
from pocketft.files import write_json

BATCH_CHARS = 8 * PART_CHARS  # the tokenizers library works on the texts of a batch in parallel


@dataclass(frozen=True)
class _Part:
    """A part of a plain text, waiting to be tokenized."""

    text: str
    last: bool
    key: int | None  # on the first part of a document


@dataclass(frozen=True)
class _Chat:
    """A conversation, waiting to be tokenized in `parts`: (offset in its text, words)."""

    chat: RenderedChat
    key: int
    parts: tuple[tuple[int, str], ...]


def write_tokens(documents: Iterable[Document], tokenizer_dir: Path, folder: Path, report: ReadReport) -> None:
    """Fill `folder` with the token set; `summary.json` carries the account of the reading."""
    tokenizer = load_text_tokenizer(tokenizer_dir)
    template: ChatTemplate | None = None
    with _TokenWriter(folder, tokenizer) as writer:
        for document in documents:
            if not document.turns:
                writer.add_part(_Part(document.text, document.last, None if document.part else _key(document)))
                continue
            if template is None:  # most data has no chats, and then a template's faults are nobody's business
                template = ChatTemplate(chat_template_source(tokenizer_dir) or plain_template(tokenizer), tokenizer)
            try:
                for chat in template.for_training(document.turns, document.tools):
                    writer.add_chat(chat, _key(document))
            except CannotFollow as why:
                report.refused_chats[str(why)] += 1
        writer.flush()
    write_json(
        folder / "summary.json",
        {
            "prefix": list(tokenizer.prefix),
            "documents": writer.documents,
            "chats": writer.chats,
            "tokens": writer.tokens,
            "loss_tokens": writer.loss_tokens,
            "reading": report.to_json(),
        },
    )


class _TokenWriter:
    """The three growing files of a token set."""

    def __init__(self, folder: Path, tokenizer: TextTokenizer) -> None:
        self._tokenizer = tokenizer
        self._stack = ExitStack()
        self._tokens_file, self._marks_file, self._documents_file = (
            self._stack.enter_context((folder / name).open("wb"))
            for name in ("tokens.i32", "marks.u8", "documents.bin")
        )
        self._waiting: list[_Part | _Chat] = []
        self._waiting_chars = 0
        self._thread = self._stack.enter_context(ThreadPoolExecutor(max_workers=1))
        self._running: tuple[list[_Part | _Chat], Future[tuple[list[Encoded], list[Encoded]]]] | None = None
        self._key, self._start, self._loss = 0, 0, 0  # of the document being written
        self.documents = self.chats = self.tokens = self.loss_tokens = 0

    def add_part(self, part: _Part) -> None:
        self._wait(part, len(part.text))

    def add_chat(self, chat: RenderedChat, key: int) -> None:
        parts, at = [], 0
        while at < len(chat.text):
            end = at + part_end(chat.text[at : at + PART_CHARS + 1], PART_CHARS)
            parts.append((at, chat.text[at:end]))
            at = end
        self._wait(_Chat(chat, key, tuple(parts)), len(chat.text))

    def flush(self) -> None:
        """Tokenize and write all that waits."""
        self._start_next()
        self._start_next()

    def _start_next(self) -> None:
        """Write the batch that is being tokenized, once it is, and start on the one that waits."""
        waiting, self._waiting, self._waiting_chars = self._waiting, [], 0
        before = self._running
        self._running = (waiting, self._thread.submit(self._encode, waiting)) if waiting else None
        if before is not None:
            batch, encoded = before
            self._write_batch(batch, *encoded.result())

    def _encode(self, batch: Sequence[_Part | _Chat]) -> tuple[list[Encoded], list[Encoded]]:
        """Plain texts and chats. Control words count in chats; in plain texts they stay text."""
        plain = [item.text for item in batch if isinstance(item, _Part)]
        said = [text for item in batch if isinstance(item, _Chat) for _, text in item.parts]
        return self._tokenizer.encode(plain, control=False), self._tokenizer.encode(said, control=True)

    def _write_batch(self, batch: list[_Part | _Chat], plain: list[Encoded], said: list[Encoded]) -> None:
        encoded_plain, encoded_said = iter(plain), iter(said)
        for item in batch:
            if isinstance(item, _Part):
                self._write_part(item, next(encoded_plain))
            else:
                self._write_chat(item, list(islice(encoded_said, len(item.parts))))

    def _wait(self, item: _Part | _Chat, chars: int) -> None:
        self._waiting.append(item)
        self._waiting_chars += chars
        if self._waiting_chars >= BATCH_CHARS:
            self._start_next()

    def _write_part(self, part: _Part, encoded: Encoded) -> None:
        if part.key is not None:
            self._begin(part.key)
        levels = token_levels(part.text, encoded.starts, encoded.ends)
        self._write(encoded.ids, levels << LEVEL_SHIFT | LOSS_BIT)
        if part.last:
            end = np.array(self._tokenizer.end, dtype=np.int32)
            self._write(end, np.full(len(end), NONE << LEVEL_SHIFT | LOSS_BIT))
            self._end(framed=bool(self._tokenizer.prefix))

    def _write_chat(self, item: _Chat, encodings: list[Encoded]) -> None:
        ids, marks = self._chat_tokens(item, encodings)
        prefix = self._tokenizer.prefix
        framed = bool(prefix) and tuple(ids[: len(prefix)]) == prefix  # the template writes it; rows add it again
        skip = len(prefix) if framed else 0
        self._begin(item.key)
        self._write(ids[skip:], marks[skip:])
        self._end(framed)
        self.chats += 1

    def _chat_tokens(self, item: _Chat, encodings: list[Encoded]) -> tuple[NDArray[np.int32], NDArray[np.uint8]]:
        """Ids and marks of a whole conversation; the best borders are those behind an assistant's turn."""
        all_ids, all_marks = [], []
        for (offset, text), encoded in zip(item.parts, encodings, strict=True):
            levels = np.minimum(token_levels(text, encoded.starts, encoded.ends), SENTENCE)
            starts, ends = encoded.starts + offset, encoded.ends + offset
            learned = np.zeros(len(starts), dtype=bool)
            for start, end in item.chat.learned:
                learned |= (ends > start) & (starts < end)
                behind = int(np.searchsorted(starts, end))
                while behind < len(starts) and text[starts[behind] - offset : ends[behind] - offset].isspace():
                    behind += 1
                if behind < len(starts) and starts[0] <= end:
                    levels[behind] = PARAGRAPH
            all_ids.append(encoded.ids)
            all_marks.append((levels << LEVEL_SHIFT | learned).astype(np.uint8))
        if not item.chat.text.endswith(self._tokenizer.added_words):  # a template without an end-of-turn mark
            end_ids = np.array(self._tokenizer.end, dtype=np.int32)
            all_ids.append(end_ids)
            all_marks.append(np.full(len(end_ids), LOSS_BIT, dtype=np.uint8))
        return np.concatenate(all_ids), np.concatenate(all_marks)

    def _begin(self, key: int) -> None:
        self._key, self._start, self._loss = key, self.tokens, self.loss_tokens

    def _write(self, ids: NDArray[np.int32], marks: NDArray[Any]) -> None:
        self._tokens_file.write(ids.astype("<i4").tobytes())
        self._marks_file.write(marks.astype("u1").tobytes())
        self.tokens += len(ids)
        self.loss_tokens += int((marks & LOSS_BIT).sum())

    def _end(self, framed: bool) -> None:
        record = (self._start, self.tokens - self._start, self.loss_tokens - self._loss, self._key, framed)
        self._documents_file.write(np.array([record], dtype=DOCUMENT).tobytes())
        self.documents += 1

    def __enter__(self) -> _TokenWriter:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self._stack.close()


def _key(document: Document) -> int:
    """What a document is known by when some are held out: how it begins, so that copies stay on one side."""
    digest = hashlib.blake2b(document.text.encode("utf-8", "surrogatepass"), digest_size=8)
    for turn in document.turns:
        digest.update(f"\0{turn.role}\0{turn.text}".encode("utf-8", "surrogatepass"))
    return int.from_bytes(digest.digest(), "little")
