"""Readers: one small file per kind of source, each turning a file into a stream of documents.

`read_documents` walks the paths, chooses a reader for each file by what is in it, and keeps the account.
"""

from __future__ import annotations

from pocketft.data.readers.choose import READERS, choose_reader, read_documents
from pocketft.data.readers.reader import Reader, Sample

__all__ = ["READERS", "Reader", "Sample", "choose_reader", "read_documents"]
