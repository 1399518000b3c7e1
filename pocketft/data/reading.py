"""From the paths a person gave to the documents a model will learn: found, read, and made fit.

The one place where the steps of reading meet, for training and for `pocketft data export` alike.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

from pocketft.data.documents import Document, ReadReport
from pocketft.data.layout import DataSettings
from pocketft.data.readers import read_documents
from pocketft.data.sources import SourceFile, find_files

Watch = Callable[[Iterator[SourceFile]], Iterator[SourceFile]]


def read(
    paths: Sequence[Path], settings: DataSettings, report: ReadReport, watch: Watch = lambda files: files
) -> Iterator[Document]:
    """`watch` sees each file before it is read: a progress bar."""
    return read_documents(watch(find_files(paths, report)), report)
