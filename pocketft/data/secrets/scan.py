"""A scan of one text for everything that nobody should learn from: one list of places, in order, none overlapping."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from itertools import chain

from pocketft.data.secrets.addresses import find_addresses
from pocketft.data.secrets.finding import KINDS, Finding
from pocketft.data.secrets.keys import find_keys
from pocketft.data.secrets.numbers import find_numbers
from pocketft.data.secrets.passwords import find_passwords

_RANK = {kind: rank for rank, kind in enumerate(KINDS)}


def scan(text: str) -> list[Finding]:
    lower = text.lower()
    if len(lower) != len(text):  # a few capitals become two characters, and places would shift
        lower = "".join(small if len(small := character.lower()) == 1 else character for character in text)
    found = chain(find_keys(text, lower), find_passwords(text, lower), find_numbers(text), find_addresses(text))
    return list(_merged(found))


def redacted(text: str, findings: Iterable[Finding]) -> str:
    """The text with a typed placeholder in each place: [API_KEY]."""
    pieces, at = [], 0
    for finding in findings:
        pieces += [text[at : finding.start], finding.placeholder]
        at = finding.end
    return "".join([*pieces, text[at:]]) if pieces else text


def _merged(findings: Iterable[Finding]) -> Iterator[Finding]:
    """Overlapping findings become one that covers them all, with the name of the surest."""
    current: Finding | None = None
    for finding in sorted(findings, key=lambda one: (one.start, -one.end)):
        if current is None or finding.start >= current.end:
            if current is not None:
                yield current
            current = finding
        else:
            kind = min(current.kind, finding.kind, key=lambda name: _RANK[name])
            current = Finding(kind, current.start, max(current.end, finding.end))
    if current is not None:
        yield current
