"""Which texts have been seen before: the same words, or nearly the same.

Remembers hashes and sketches, not texts, and only so many of them; knows nothing of documents or files.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable
from typing import Literal

import numpy as np

from pocketft.data.cleaning.seen import Seen
from pocketft.data.cleaning.sketch import PLACES, likeness, sketch

Seenness = Literal["new", "same", "alike"]

ALIKE = 0.8  # share of shingles in common: one word in twenty changed, or a paragraph in five
MIN_ALIKE_CHARS = 200  # below this, likeness is chance: dates, greetings, short lists
_MAX_SAME = 1 << 21
_MAX_ALIKE = 1 << 17  # sketches of 128 bytes


class Duplicates:
    def __init__(self, max_same: int = _MAX_SAME, max_alike: int = _MAX_ALIKE) -> None:
        self._same = Seen(max_same)
        self._bands = Seen(max_alike * 12)
        self._sketches = np.zeros((256, PLACES), dtype=np.uint8)
        self._max_alike = max_alike
        self._sketched = 0

    def judge_text(self, text: str) -> Seenness:
        """And remember it. White space and the case of letters do not count."""
        words = " ".join(text.split()).lower()
        if self._seen_same([words]):
            return "same"
        if len(words) >= MIN_ALIKE_CHARS and self._seen_alike(words):
            return "alike"
        return "new"

    def judge_turns(self, turns: Iterable[tuple[str, str]]) -> Seenness:
        """A conversation: role and text of each turn. Only the same one is a duplicate: one long prompt with many short
        answers is how examples are often made, and their likeness is no mistake."""
        said = [word for role, text in turns for word in (role, " ".join(text.split()).lower())]
        return "same" if self._seen_same(said) else "new"

    def _seen_same(self, words: Iterable[str]) -> bool:
        digest = hashlib.blake2b(digest_size=8)
        for word in words:
            digest.update(word.encode("utf-8", "surrogatepass") + b"\0")
        key = np.array([int.from_bytes(digest.digest(), "little") | 1], dtype=np.uint64)
        if len(self._same.find(key)):
            return True
        self._same.add(key, 0)
        return False

    def _seen_alike(self, words: str) -> bool:
        one = sketch(words)
        bands = one.bands | np.uint64(1)  # 0 means an empty place
        candidates = np.unique(self._bands.find(bands))
        candidates = candidates[candidates > self._sketched - self._max_alike] % self._max_alike
        if len(candidates) and likeness(one.places, self._sketches[candidates]).max() >= ALIKE:
            return True
        place = self._sketched % self._max_alike
        if place >= len(self._sketches):
            self._sketches = np.concatenate([self._sketches, np.zeros_like(self._sketches)])
        self._sketches[place] = one.places
        self._bands.add(bands, self._sketched)
        self._sketched += 1
        return False
