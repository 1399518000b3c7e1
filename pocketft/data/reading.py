"""From the paths a person gave to the documents a model will learn: found, read, and made fit.

The one place where the steps of reading meet, for training and for `pocketft data export` alike.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path

from pocketft.data.cleaning.clean import clean
from pocketft.data.documents import Document, ReadReport
from pocketft.data.layout import DataSettings
from pocketft.data.readers import read_documents
from pocketft.data.readers.choose import Watch
from pocketft.data.sources import find_files


def read(paths: Sequence[Path], settings: DataSettings, report: ReadReport, watch: Watch = iter) -> Iterator[Document]:
    """`watch` sees each file before it is read: a progress bar."""
    files = find_files(paths, report)
    documents = read_documents(files, report, me=settings.me, column=settings.column, watch=watch)
    return clean(documents, settings, report.cleaning)
