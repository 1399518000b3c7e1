"""The process that reads and tokenizes, apart from the one that trains: its memory is given back when it ends.

Gets its job as one JSON object on stdin; answers with events as JSON lines on stdout, the last of them "prepared" or
"failed". Run as `python -m pocketft.data.prepare`.
"""

from __future__ import annotations

import json
import signal
import sys
import time
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

from pocketft.data.documents import Document, ReadReport
from pocketft.data.layout import DataSettings, prune, read_summary, rows_folder, tokens_folder
from pocketft.data.sources import SourceFile
from pocketft.errors import DataError, PocketftError
from pocketft.files import atomic_folder

PROGRESS_EVERY_S = 0.2


def prepare(job: dict[str, Any]) -> None:
    """Build what is missing of one prepared data set. The job: see `child.run_preparation`."""
    cache_dir = Path(job["cache_dir"])
    settings = DataSettings(**job["settings"])
    tokens = tokens_folder(cache_dir, job["tokens_key"])
    summary = read_summary(tokens)
    if summary is None:
        with atomic_folder(tokens) as folder:
            _tokenize(job, settings, folder)
        summary = read_summary(tokens)
        assert summary is not None
    from pocketft.data.rows import write_rows

    with atomic_folder(rows_folder(cache_dir, job["rows_key"])) as folder:
        write_rows(tokens, summary, settings, folder)
    prune(cache_dir)


def _tokenize(job: dict[str, Any], settings: DataSettings, folder: Path) -> None:
    # The tokenizer is loaded after the settings are known to need it; reading alone stays under 30 MB.
    from pocketft.data.reading import read
    from pocketft.data.tokens import write_tokens

    report = ReadReport()
    paths = [Path(path) for path in job["paths"]]
    progress = _Progress(job["total_bytes"])
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

    def __init__(self, total_bytes: int) -> None:
        self._total = total_bytes
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
        _tell({"event": "progress", "task": "reading", "done": done, "total": self._total, "unit": "B"})


def _tell(event: dict[str, Any]) -> None:
    sys.stdout.write(json.dumps(event) + "\n")
    sys.stdout.flush()


def _stop(number: int, frame: object) -> None:
    raise SystemExit(128 + number)  # unwinds, so that temporary files go


def main() -> None:
    signal.signal(signal.SIGTERM, _stop)
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the parent decides, and sends SIGTERM
    try:
        prepare(json.loads(sys.stdin.readline()))
    except PocketftError as error:
        _tell({"event": "failed", "kind": type(error).__name__, "message": str(error)})
    except MemoryError:
        _tell({"event": "failed", "kind": "DataError", "message": "not enough memory to read the text"})
    except BrokenPipeError:  # the parent is gone: nobody wants the result
        raise SystemExit(1) from None
    else:
        _tell({"event": "prepared"})


if __name__ == "__main__":
    main()
