"""The account of the cleaning: what was left out and what was found, as counts and places, never as words."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field
from typing import Any

from pocketft.data.secrets import KINDS

PLACES_KEPT = 10  # of each kind: an account stays small however much is found
_PLACES_SHOWN = 3


@dataclass
class CleanReport:
    """Grows while documents pass by. A place is "notes/a.md:12"."""

    duplicates: int = 0
    near_duplicates: int = 0
    too_short: int = 0
    boilerplate_lines: int = 0
    secrets: Counter[str] = field(default_factory=Counter)  # by kind
    places: dict[str, list[str]] = field(default_factory=dict)  # by kind, the first few
    kept: bool = False  # they are learned as they are

    def found(self, kind: str, place: str) -> None:
        self.secrets[kind] += 1
        places = self.places.setdefault(kind, [])
        if len(places) < PLACES_KEPT and place not in places:
            places.append(place)

    @property
    def left_out(self) -> int:
        """Whole documents, or long parts of one."""
        return self.duplicates + self.near_duplicates + self.too_short

    def to_json(self) -> dict[str, Any]:
        return {
            "duplicates": self.duplicates,
            "near_duplicates": self.near_duplicates,
            "too_short": self.too_short,
            "boilerplate_lines": self.boilerplate_lines,
            "secrets": {kind: self.secrets[kind] for kind in KINDS if self.secrets[kind]},
            "secret_places": {kind: self.places[kind] for kind in KINDS if kind in self.places},
        }

    def why_nothing(self) -> str:
        return f"left out {self.what_was_left_out()}" if self.left_out else ""

    def notices(self) -> list[str]:
        lines = []
        if self.left_out or self.boilerplate_lines:
            lines.append(f"left out {self.what_was_left_out()}")
        if self.secrets:
            done = "found and kept, to be learned as they are" if self.kept else "replaced by placeholders"
            lines.append(f"{done}: {self.what_was_found()}")
        return lines

    def what_was_left_out(self) -> str:
        return ", ".join(
            f"{count:,} {word if count == 1 else words}"
            for count, word, words in (
                (self.duplicates, "duplicate", "duplicates"),
                (self.near_duplicates, "near duplicate", "near duplicates"),
                (self.too_short, "text shorter than data.min_chars", "texts shorter than data.min_chars"),
                (self.boilerplate_lines, "repeated line of boilerplate", "repeated lines of boilerplate"),
            )
            if count
        )

    def what_was_found(self) -> str:
        """ "2 API keys (notes/a.md:3, b.txt:9), 1 IBAN (b.txt:12)" """
        clauses = []
        for kind, name in KINDS.items():
            if count := self.secrets[kind]:
                places = self.places[kind]
                more = ", …" if len(places) > _PLACES_SHOWN else ""
                words = name if count == 1 else name + ("es" if name.endswith("s") else "s")
                clauses.append(f"{count:,} {words} ({', '.join(places[:_PLACES_SHOWN])}{more})")
        return ", ".join(clauses)
