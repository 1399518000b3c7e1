"""Which documents are held out: a part of the data that is never trained on, chosen by hash, the same every time.

Whole documents where there are enough of them; otherwise the tail of the longest one, cut between paragraphs. Knows
documents as counts of tokens only.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from pocketft.data.borders import LINE, NONE, PARAGRAPH, SENTENCE, WORD
from pocketft.data.layout import LEVEL_SHIFT, FlatFile

MIN_TOKENS = 64  # less than this is too little to hold anything out of
_BLOCK = 1 << 16


@dataclass(frozen=True)
class HeldOut:
    """`documents`: sorted indices, held out whole. Or, of document `tail_of`, everything from token `tail_at` on."""

    documents: NDArray[np.int64]
    tail_of: int = -1
    tail_at: int = 0

    @property
    def kind(self) -> str:
        return "documents" if len(self.documents) else "tail" if self.tail_of >= 0 else "none"


def hold_out(
    documents: FlatFile, fraction: float, seed: int, read_marks: Callable[[int, int], NDArray[np.uint8]]
) -> HeldOut:
    """Hold out about `fraction` of what can be learned; `read_marks(start, count)` gives marks of the token file."""
    nothing = HeldOut(np.empty(0, dtype=np.int64))
    total, tokens, longest = 0, 0, (0, -1)
    for first in range(0, len(documents), _BLOCK):
        block = documents.read(first, _BLOCK)
        total += int(block["loss"].sum())
        tokens += int(block["count"].sum())
        top = int(np.argmax(block["loss"]))
        longest = max(longest, (int(block["loss"][top]), -first - top))
    if fraction <= 0 or tokens < MIN_TOKENS:
        return nothing
    chosen = _whole_documents(documents, fraction, seed, total)
    if len(chosen):
        return HeldOut(chosen)
    index = -longest[1]
    document = documents.read(index, 1)[0]
    at = _tail(document, fraction * tokens, read_marks)
    return HeldOut(nothing.documents, index, at) if at else nothing


def _whole_documents(documents: FlatFile, fraction: float, seed: int, total: int) -> NDArray[np.int64]:
    """Documents in the order of their hashes until they make up the fraction; empty if none would do.

    None may be more than an eighth of everything, or one and a half times what is wanted: a held-out part should cost
    little. Documents that begin alike have one hash and go together, so that no copy of a held-out one is trained on.
    """
    wanted = fraction * total
    limit = max(1.5 * wanted, total / 8)
    # Of very many documents, only those with low hashes can be chosen; the others need not be held in memory.
    bound = np.uint64(min(1.0, 2 * fraction + 1e5 / max(1, len(documents))) * (2**64 - 2**11))
    indices, hashes, losses = [], [], []
    for first in range(0, len(documents), _BLOCK):
        block = documents.read(first, _BLOCK)
        mixed = _mix(block["key"], seed)
        low = mixed <= bound
        indices.append(np.flatnonzero(low) + first)
        hashes.append(mixed[low])
        losses.append(block["loss"][low])
    index, mixed, loss = np.concatenate(indices), np.concatenate(hashes), np.concatenate(losses)
    order = np.argsort(mixed, kind="stable")
    index, mixed, loss = index[order], mixed[order], loss[order]
    begins = np.flatnonzero(np.concatenate([[True], mixed[1:] != mixed[:-1]])) if len(mixed) else np.empty(0, np.int64)
    chosen: list[NDArray[np.int64]] = []
    held = 0
    for begin, end in zip(begins, [*begins[1:], len(mixed)], strict=True):
        group = int(loss[begin:end].sum())
        if held + group <= limit and group < total:
            chosen.append(index[begin:end])
            held += group
        if held >= wanted:
            break
    return np.sort(np.concatenate(chosen)) if held >= wanted / 2 and held else np.empty(0, dtype=np.int64)


def _tail(document: np.void, wanted: float, read_marks: Callable[[int, int], NDArray[np.uint8]]) -> int:
    """The token of the token file where the held-out tail of a document begins; 0 if there is no place for it."""
    start, count = int(document["start"]), int(document["count"])
    length = int(min(max(wanted, 16), count / 2))
    low, high = max(1, count - 2 * length), count - max(1, length // 2)  # twice to half the wanted length
    low = max(low, high - (1 << 20))
    if high <= low:
        return 0
    levels = read_marks(start + low, high - low) >> LEVEL_SHIFT
    target = count - length - low
    for level in (PARAGRAPH, SENTENCE, LINE, WORD, NONE):
        places = np.flatnonzero(levels >= level)
        if len(places):
            return start + low + int(places[np.argmin(np.abs(places - target))])
    return 0


def _mix(keys: NDArray[np.uint64], seed: int) -> NDArray[np.uint64]:
    """The finalizer of splitmix64 (Steele, Lea, Flood 2014): every seed gives another order of the keys."""
    with np.errstate(over="ignore"):
        mixed = keys.astype(np.uint64) + np.uint64((0x9E3779B97F4A7C15 * (seed + 1)) % 2**64)
        mixed = (mixed ^ (mixed >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
        mixed = (mixed ^ (mixed >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
        return mixed ^ (mixed >> np.uint64(31))
