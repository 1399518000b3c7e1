"""What a reader is: a name, a test on the beginning of a file, and a stream of documents or messages.

A reader never raises on bad content: it tells the report and goes on, or yields nothing.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass

from pocketft.data.documents import Document, Message, ReadReport
from pocketft.data.sources import SourceFile

SAMPLE_BYTES = 65_536


@dataclass(frozen=True)
class Sample:
    """A file and its beginning: all that a reader sees before it is chosen.

    What is not text has no `encoding` and no `head`, only its `start` as bytes.
    """

    file: SourceFile
    encoding: str
    head: str
    start: bytes
    whole: bool  # `head` is all there is
    column: str | None = None  # of a table, as the person named it

    @property
    def name(self) -> str:
        return self.file.name

    @property
    def suffix(self) -> str:
        return self.file.suffix


@dataclass(frozen=True)
class Reader:
    """`recognises` answers True, False, or in words why a file of this kind cannot be read.

    A reader of `people` yields messages, which become documents once it is known whose voice is to be learned.
    """

    name: str
    recognises: Callable[[Sample], bool | str]
    read: Callable[[Sample, ReadReport], Iterator[Document] | Iterator[Message]]
    people: bool = False
