"""Lines that a folder repeats in document after document: headers, footers, licences, "Sent from my phone".

A line is boilerplate from the tenth document on if at least every tenth document of the folder so far had it. At a
document's beginning and end any line of some length can be; between other lines only a long one, for short ones repeat
themselves in lists and verses. Source code is left alone, its repeated lines mean something.
"""

from __future__ import annotations

from collections.abc import Sequence

MIN_DOCUMENTS = 10
MIN_SHARE = 0.1
_EDGE_LINES = 8
_EDGE_CHARS, _INNER_CHARS = 12, 40
_MAX_LINES = 200_000  # remembered; rare ones are forgotten first (lossy counting: Manku and Motwani 2002)
_MAX_FOLDERS = 10_000
_CODE_NAMES = """.c .cc .cpp .cs .css .cu .go .h .hpp .hs .ipynb .java .jl .js .json .jsx .kt .lua .m .ml .php .pl .py
    .pyi .r .rb .rs .scala .sh .sql .swift .tex .toml .ts .tsx .vue .xml .yaml .yml .zig"""
_CODE = frozenset(_CODE_NAMES.split())


class Boilerplate:
    def __init__(self) -> None:
        self._documents: dict[str, int] = {}  # by folder
        self._counts: dict[int, int] = {}  # of documents, by folder and line

    def lines_to_keep(self, source: str, lines: Sequence[str], *, begins: bool, ends: bool) -> list[int] | None:
        """Indices of the lines that stay; None where all do. `begins`, `ends`: it is the text's beginning, its end."""
        folder, _, name = source.rpartition("/")
        if name[name.rfind(".") :].lower() in _CODE:
            return None
        if folder not in self._documents and len(self._documents) >= _MAX_FOLDERS:
            return None
        seen = self._documents[folder] = self._documents.get(folder, 0) + 1
        enough = max(MIN_DOCUMENTS, MIN_SHARE * seen)
        stripped = [line.strip() for line in lines]
        edge = self._edge(stripped, begins, ends)
        known = set()
        counted = set()
        for index, line in enumerate(stripped):
            if len(line) >= _INNER_CHARS or (index in edge and len(line) >= _EDGE_CHARS):
                key = hash((folder, line))
                if key not in counted:
                    counted.add(key)
                    self._counts[key] = self._counts.get(key, 0) + 1
                if self._counts[key] > enough:
                    known.add(index)
        if len(self._counts) > _MAX_LINES:
            self._counts = {key: count - 1 for key, count in self._counts.items() if count > 1}
        dropped = self._dropped(stripped, known, begins, ends) if known else known
        return [index for index in range(len(lines)) if index not in dropped] if dropped else None

    def _edge(self, lines: Sequence[str], begins: bool, ends: bool) -> set[int]:
        written = [index for index, line in enumerate(lines) if line]
        return {*(written[:_EDGE_LINES] if begins else ()), *(written[-_EDGE_LINES:] if ends else ())}

    def _dropped(self, lines: Sequence[str], known: set[int], begins: bool, ends: bool) -> set[int]:
        """Long known lines anywhere, short ones only where nothing else stands before or behind them."""
        dropped = {index for index in known if len(lines[index]) >= _INNER_CHARS}
        for wanted, order in ((begins, range(len(lines))), (ends, range(len(lines) - 1, -1, -1))):
            for index in order if wanted else ():
                if lines[index] and index not in known:
                    break
                if index in known:
                    dropped.add(index)
        return dropped
