"""The process that reads and tokenizes, apart from the one that trains: its memory is given back when it ends.

`child.py` is its connection to the one that trains. Run as `python -m pocketft.data.prepare`.
"""

from __future__ import annotations

import time
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

from pocketft.child import Report, serve
from pocketft.data.documents import Document, ReadReport
from pocketft.data.layout import DataSettings, prune, read_summary, rows_folder, tokens_folder
from pocketft.data.sources import SourceFile
from pocketft.errors import DataError
from pocketft.files import atomic_folder

PROGRESS_EVERY_S = 0.2


def prepare(job: dict[str, Any], tell: Report) -> None:
    """Build what is missing of one prepared data set. `job`: paths, tokenizer_dir, cache_dir (absolute), settings,
    tokens_key, rows_key, total_bytes.
    """
    cache_dir = Path(job["cache_dir"])
    settings = DataSettings(**job["settings"])
    tokens = tokens_folder(cache_dir, job["tokens_key"])
    summary = read_summary(tokens)
    if summary is None:
        with atomic_folder(tokens) as folder:
            _tokenize(job, settings, folder, tell)
        summary = read_summary(tokens)
        assert summary is not None
    from pocketft.data.rows import write_rows

    with atomic_folder(rows_folder(cache_dir, job["rows_key"])) as folder:
        write_rows(tokens, summary, settings, folder)
    prune(cache_dir)


def _tokenize(job: dict[str, Any], settings: DataSettings, folder: Path, tell: Report) -> None:
    # The tokenizer is loaded after the settings are known to need it; reading alone stays under 30 MB.
    from pocketft.data.reading import read
    from pocketft.data.tokens import write_tokens

    report = ReadReport()
    paths = [Path(path) for path in job["paths"]]
    progress = _Progress(job["total_bytes"], tell)
    documents = read(paths, settings, report, progress.files)
    write_tokens(progress.documents(documents), Path(job["tokenizer_dir"]), folder, report)
    summary = read_summary(folder)
    if not summary or not summary["tokens"]:
        shown = ", ".join(path.name for path in paths[:3]) + (", …" if len(paths) > 3 else "")
        raise DataError(
            f"no text to learn from in {shown}: {report.why_nothing()}; see `pocketft data` for what can be read"
        )


class _Progress:
    """Bytes read so far. Inside a long file, characters stand for bytes."""

    def __init__(self, total_bytes: int, report: Report) -> None:
        self._total, self._report = total_bytes, report
        self._before = self._in_file = self._size = 0
        self._told_s = 0.0

    def files(self, files: Iterable[SourceFile]) -> Iterator[SourceFile]:
        for file in files:
            self._size, self._in_file = file.size_bytes, 0
            yield file
            self._before += file.size_bytes
        self._size = self._in_file = 0
        self._tell()

    def documents(self, documents: Iterator[Document]) -> Iterator[Document]:
        for document in documents:
            self._in_file += len(document.text) + sum(len(turn.text) for turn in document.turns)
            if time.monotonic() - self._told_s > PROGRESS_EVERY_S:
                self._tell()
            yield document

    def _tell(self) -> None:
        self._told_s = time.monotonic()
        done = self._before + min(self._in_file, self._size)
        self._report({"event": "progress", "task": "reading", "done": done, "total": self._total, "unit": "B"})


def main() -> None:
    serve("reading the text", prepare)


if __name__ == "__main__":
    main()
