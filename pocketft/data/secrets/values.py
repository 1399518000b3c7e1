"""Values that only a text itself could tell: numbers and keys drawn at random, and others that might as well have been.

Such a value is a canary, planted or not: a model that finds it likelier than its alternatives has learned it by heart
(Carlini et al. 2019). Knows texts; nothing of models.
"""

from __future__ import annotations

import math
import random
import re
import string
from collections.abc import Iterable
from dataclasses import dataclass

from pocketft.data.secrets.finding import looks_random

CONTEXT_CHARS = 96
MIN_BITS = 18.0  # six digits are 19.9; of less, a guess is as good
_MAX_BITS = 2000.0
_MAX_VALUES = 20_000  # remembered of one text

_NUMBER = re.compile(r"(?<![\w.,:/-])\d(?:[ -]?\d){5,23}(?![\w%]|[.,:/-]\d)")
_KEY = re.compile(r"(?<![\w/.+=-])[A-Za-z0-9][\w+/=-]{9,127}(?![\w/])", re.ASCII)
_DATE = re.compile(r"(?:1[89]|20)\d\d[ -]?\d\d[ -]?\d\d(?:[ -]?\d\d)*|\d\d[ -]\d\d[ -](?:1[89]|20)\d\d|\d{4}[ -]\d{4}")
_PREFIX = re.compile(r"[A-Za-z]{2,7}[-_](?:[a-z]{2,8}\d{0,2}[-_])*")  # says whose key it is, and is no secret


@dataclass
class Value:
    """`context` is what stands before the value where it was seen first."""

    text: str
    context: str
    repeats: int = 1

    @property
    def bits(self) -> float:
        """The size of the space that it could have been drawn from, as its logarithm."""
        return sum(math.log2(len(alphabet)) for alphabet in _alphabets(self.text) if alphabet)

    @property
    def description(self) -> str:
        """Its shape, which may be shown."""
        count = sum(character.isalnum() for character in self.text)
        return f"number of {count} digits" if _is_number(self.text) else f"key of {len(self.text)} characters"

    def alternatives(self, count: int, seed: int) -> list[str]:
        """Others of the same shape, drawn at random."""
        draw = random.Random(f"{seed} {self.text}")
        alphabets = _alphabets(self.text)
        return [
            "".join(
                draw.choice(alphabet) if alphabet else character
                for character, alphabet in zip(self.text, alphabets, strict=True)
            )
            for _ in range(count)
        ]


def find_values(texts: Iterable[str]) -> list[Value]:
    """Each value of the texts once, with how often it was seen; in the order in which they were met."""
    found: dict[str, Value] = {}
    for text in texts:
        for pattern in (_NUMBER, _KEY):
            for match in pattern.finditer(text):
                word = match[0].rstrip("-=+/_") if pattern is _KEY else match[0]
                if pattern is _KEY and _is_number(word):
                    continue
                if word in found:
                    found[word].repeats += 1
                elif len(found) < _MAX_VALUES and _is_random(word):
                    value = Value(word, _context(text, match.start()))
                    if MIN_BITS <= value.bits <= _MAX_BITS:
                        found[word] = value
    return list(found.values())


def _is_number(word: str) -> bool:
    return word.replace(" ", "").replace("-", "").isdigit()


def _is_random(word: str) -> bool:
    if _is_number(word):
        digits = re.sub(r"\D", "", word)
        return len(set(digits)) > 2 and not _DATE.fullmatch(word) and not digits.endswith("00000")
    return looks_random(word) and sum(map(str.isdigit, word)) >= 2 and not _DATE.match(word)


def _context(text: str, at: int) -> str:
    before = text[max(0, at - CONTEXT_CHARS) : at]
    if at > CONTEXT_CHARS and (space := re.search(r"\s", before[: CONTEXT_CHARS // 2])):
        before = before[space.end() :]  # from the beginning of a word
    return before


def _alphabets(word: str) -> list[str]:
    """For each character those that could stand there too; "" where it belongs to the shape."""
    prefix = match.end() if (match := _PREFIX.match(word)) else 0
    rest = word[prefix:]
    if re.fullmatch(r"[0-9a-f-]+", rest):
        letters = "abcdef"
    elif re.fullmatch(r"[0-9A-F-]+", rest):
        letters = "ABCDEF"
    else:
        letters = ""
    return ["" if index < prefix else _alphabet(character, letters) for index, character in enumerate(word)]


def _alphabet(character: str, letters: str) -> str:
    if character.isdigit():
        return string.digits
    if not character.isalpha():
        return ""
    return letters or (string.ascii_lowercase if character.islower() else string.ascii_uppercase)
