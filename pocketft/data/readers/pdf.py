"""PDF documents, page by page; a scanned one holds pictures and no words. Needs `pocketft[documents]`."""

from __future__ import annotations

import logging
import re
from collections.abc import Iterator
from importlib.util import find_spec
from typing import IO

from pocketft.data.documents import Document, ReadReport
from pocketft.data.readers.reader import Reader, Sample
from pocketft.data.readers.text import documents_of_text
from pocketft.errors import PocketftError

MAX_PDF_BYTES = 512 << 20
_HYPHEN = re.compile(r"(?<=[a-zà-ÿ])-\n(?=[a-zà-ÿ])")  # a word divided at a line's end
_WRAPPED = re.compile(r"(?<=[^\n.!?:;]) *\n(?=[a-zà-ÿ(])")  # a line that goes on below


def _recognises(sample: Sample) -> bool | str:
    if not sample.start.startswith(b"%PDF-"):
        return False
    if find_spec("pypdf") is None:
        return 'PDF document; to read it: pip install "pocketft[documents]"'
    if sample.file.size_bytes > MAX_PDF_BYTES:
        return f"PDF document of more than {MAX_PDF_BYTES >> 20} MB"
    return True


def _read(sample: Sample, report: ReadReport) -> Iterator[Document]:
    with sample.file.open_seekable() as stream:
        yield from documents_of_text(_pages(stream, sample, report), sample.name)


def _pages(stream: IO[bytes], sample: Sample, report: ReadReport) -> Iterator[str]:
    from pypdf import PdfReader

    logging.getLogger("pypdf").setLevel(logging.CRITICAL)  # it tells every repair; the account tells the outcome
    number = 0
    try:
        reader = PdfReader(stream)
        if reader.is_encrypted and not reader.decrypt(""):
            report.skip_file(sample.name, "PDF document with a password")
            return
        for page in reader.pages:
            number += 1
            text = page.extract_text()
            yield _WRAPPED.sub(" ", _HYPHEN.sub("", text)).strip() + "\n\n"
    except (PocketftError, MemoryError):
        raise
    except Exception as error:  # pypdf raises whatever its parts raise at damaged files
        report.damage(sample.name, f"PDF document damaged at page {number + 1}: {type(error).__name__}")


PDF = Reader("pdf", _recognises, _read)
