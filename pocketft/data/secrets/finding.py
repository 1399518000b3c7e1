"""What a scan finds: a place in a text and a kind, never the words themselves, so that a finding may be shown."""

from __future__ import annotations

import math
from collections import Counter
from dataclasses import dataclass

# In the order of trust: where two findings overlap, the earlier kind gives the name.
KINDS: dict[str, str] = {
    "PRIVATE_KEY": "private key",
    "API_KEY": "API key",
    "TOKEN": "access token",
    "PASSWORD": "password",
    "CARD_NUMBER": "card number",
    "IBAN": "IBAN",
    "EMAIL": "e-mail address",
    "PHONE": "phone number",
}


@dataclass(frozen=True)
class Finding:
    """Characters [start, end) of the text that was scanned."""

    kind: str
    start: int
    end: int

    @property
    def placeholder(self) -> str:
        return f"[{self.kind}]"


def entropy_bits(text: str) -> float:
    """Shannon entropy a character, of the text's own characters."""
    size = len(text)
    return -sum(count / size * math.log2(count / size) for count in Counter(text).values()) if text else 0.0


def looks_random(text: str) -> bool:
    """Whether a run of letters and digits was drawn by a machine rather than named by a person."""
    digits = sum(character.isdigit() for character in text)
    letters = sum(character.isalpha() for character in text)
    return digits > 0 and letters > 0 and digits + letters >= 0.8 * len(text) and entropy_bits(text) >= 2.8
