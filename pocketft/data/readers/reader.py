"""What a reader is: a name, a test on the beginning of a file, and a stream of documents.

A reader never raises on bad content: it tells the report and goes on, or yields nothing.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

from pocketft.data.documents import Document, ReadReport

SAMPLE_BYTES = 65_536


@dataclass(frozen=True)
class Sample:
    """A file and its beginning, already decoded: all that a reader sees before it is chosen."""

    path: Path
    name: str
    encoding: str
    head: str
    whole: bool  # `head` is all there is


@dataclass(frozen=True)
class Reader:
    """`recognises` answers True, False, or in words why a file of this kind cannot be read."""

    name: str
    recognises: Callable[[Sample], bool | str]
    read: Callable[[Sample, ReadReport], Iterator[Document]]
