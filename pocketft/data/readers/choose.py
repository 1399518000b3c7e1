"""Which reader reads a file: the first that recognises its content. Plain text, the last, recognises everything."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from typing import cast

from pocketft.data.archives import opened
from pocketft.data.documents import Document, Message, ReadReport
from pocketft.data.encoding import NotText, detect
from pocketft.data.language import language_of
from pocketft.data.readers.chatgpt import CHATGPT
from pocketft.data.readers.claude import CLAUDE
from pocketft.data.readers.code import CODE
from pocketft.data.readers.discord import DISCORD
from pocketft.data.readers.docx import DOCX
from pocketft.data.readers.epub import EPUB
from pocketft.data.readers.html import HTML
from pocketft.data.readers.json_document import JSON_DOCUMENT
from pocketft.data.readers.jsonl import JSONL
from pocketft.data.readers.mail import MAIL
from pocketft.data.readers.markdown import MARKDOWN
from pocketft.data.readers.org import ORG
from pocketft.data.readers.pdf import PDF
from pocketft.data.readers.reader import SAMPLE_BYTES, Reader, Sample
from pocketft.data.readers.signal import SIGNAL
from pocketft.data.readers.slack import SLACK
from pocketft.data.readers.table import TABLE
from pocketft.data.readers.telegram import TELEGRAM
from pocketft.data.readers.text import TEXT
from pocketft.data.readers.whatsapp import WHATSAPP
from pocketft.data.sources import SourceFile
from pocketft.data.voice import documents_of_messages, guess_voice, tell_voice, voice_named

BYTE_READERS: tuple[Reader, ...] = (PDF, DOCX, EPUB, MAIL)  # a mailbox may mix encodings
TEXT_READERS: tuple[Reader, ...] = (
    TELEGRAM,
    DISCORD,
    SLACK,
    SIGNAL,
    CHATGPT,
    CLAUDE,
    JSONL,
    JSON_DOCUMENT,
    WHATSAPP,
    HTML,
    ORG,
    CODE,
    TABLE,
    MARKDOWN,
    TEXT,
)
READERS = TEXT_READERS[-2:] + TEXT_READERS[:-2] + BYTE_READERS  # the everyday ones first, for lists

Watch = Callable[[Iterable[SourceFile]], Iterator[SourceFile]]


def choose_reader(file: SourceFile, column: str | None = None) -> tuple[Reader, Sample] | str:
    """The reader for a file with what was seen of it, or why it is skipped."""
    if file.size_bytes == 0:
        return "empty file"
    with file.open() as stream:
        start = stream.read(SAMPLE_BYTES)
    whole = len(start) < SAMPLE_BYTES
    by_bytes = _first(BYTE_READERS, Sample(file, "", "", start, whole, column))
    if by_bytes is not None:
        return by_bytes
    encoding = detect(start)
    if isinstance(encoding, NotText):
        return encoding.reason
    text = start.decode(encoding, "replace").replace("\r\n", "\n").replace("\r", "\n")
    if whole and not text.strip():
        return "nothing but white space"
    chosen = _first(TEXT_READERS, Sample(file, encoding, text, start, whole, column))
    assert chosen is not None, "the plain text reader takes every file"
    return chosen


def _first(readers: Iterable[Reader], sample: Sample) -> tuple[Reader, Sample] | str | None:
    for reader in readers:
        answer = reader.recognises(sample)
        if isinstance(answer, str):
            return answer
        if answer:
            return reader, sample
    return None


def read_documents(
    files: Iterable[SourceFile],
    report: ReadReport,
    *,
    me: str | None = None,
    column: str | None = None,
    watch: Watch = iter,
) -> Iterator[Document]:
    """Documents of all files, one after the other. `watch` sees each file before it is read: a progress bar."""
    files = list(files)
    voice = voice_named(me) if me else None
    voice_known = me is not None
    for file, reader, sample in _chosen(watch(files), report, column):
        try:
            if reader.people and not voice_known:  # asked for only where there are chats: a second look costs time
                voice, voice_known = guess_voice(_messages(files, column)), True
            found, told = False, report.told()
            items = reader.read(sample, report)
            if reader.people:
                items = documents_of_messages(cast("Iterator[Message]", items), file.name, voice, report)
            for document in cast("Iterator[Document]", items):
                found = True
                report.count(reader.name, document)
                if not document.part:
                    report.languages[language_of(document)] += 1
                yield document
            if found:
                report.files[reader.name] += 1
            elif report.told() == told:
                report.skip_file(file.name, f"no words in it (read as {reader.name})")
        except OSError as error:
            report.skip_file(file.name, _unreadable(error))
    tell_voice(voice, report)


def _messages(files: Iterable[SourceFile], column: str | None) -> Iterator[Iterator[Message]]:
    """What people wrote, file by file, without an account: it is all read again."""
    unheard = ReadReport()
    for _, reader, sample in _chosen(files, unheard, column):
        if reader.people:
            yield _until_damage(cast("Iterator[Message]", reader.read(sample, unheard)))


def _until_damage(messages: Iterator[Message]) -> Iterator[Message]:
    try:
        yield from messages
    except OSError:
        return


def _chosen(
    files: Iterable[SourceFile], report: ReadReport, column: str | None
) -> Iterator[tuple[SourceFile, Reader, Sample]]:
    for outer in files:
        try:
            for file in opened(outer, report):
                try:
                    chosen = choose_reader(file, column)
                except OSError as error:
                    chosen = _unreadable(error)
                if isinstance(chosen, str):
                    report.skip_file(file.name, chosen)
                else:
                    yield file, *chosen
        except OSError as error:
            report.skip_file(outer.name, _unreadable(error))


def _unreadable(error: OSError) -> str:
    return f"cannot be read: {error.strerror or error}"
