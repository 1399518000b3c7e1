"""Which reader reads a file: the first that recognises its content. Plain text, the last, recognises everything."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from pocketft.data.documents import Document, ReadReport
from pocketft.data.encoding import NotText, detect
from pocketft.data.readers.jsonl import JSONL
from pocketft.data.readers.markdown import MARKDOWN
from pocketft.data.readers.reader import SAMPLE_BYTES, Reader, Sample
from pocketft.data.readers.text import TEXT
from pocketft.data.sources import SourceFile

READERS: tuple[Reader, ...] = (JSONL, MARKDOWN, TEXT)


def choose_reader(file: SourceFile) -> tuple[Reader, Sample] | str:
    """The reader for a file with what was seen of it, or why it is skipped."""
    if file.size_bytes == 0:
        return "empty file"
    with file.path.open("rb") as stream:
        head = stream.read(SAMPLE_BYTES)
    encoding = detect(head)
    if isinstance(encoding, NotText):
        return encoding.reason
    text = head.decode(encoding, "replace").replace("\r\n", "\n").replace("\r", "\n")
    sample = Sample(file.path, file.name, encoding, text, whole=len(head) < SAMPLE_BYTES)
    if sample.whole and not text.strip():
        return "nothing but white space"
    for reader in READERS:
        answer = reader.recognises(sample)
        if isinstance(answer, str):
            return answer
        if answer:
            return reader, sample
    raise AssertionError("the plain text reader takes every file")


def read_documents(files: Iterable[SourceFile], report: ReadReport) -> Iterator[Document]:
    """Documents of all files, one after the other."""
    for file in files:
        try:
            chosen = choose_reader(file)
            if isinstance(chosen, str):
                report.skip_file(file.name, chosen)
            else:
                reader, sample = chosen
                found = False
                for document in reader.read(sample, report):
                    found = True
                    yield document
                if found:
                    report.files[reader.name] += 1
        except OSError as error:
            report.skip_file(file.name, f"cannot be read: {error.strerror or error}")
