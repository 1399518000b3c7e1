"""What a prepared data set looks like: how long its documents are, and a few of them as the model will see them.

Reads the token set in ranges. Knows nothing of how a person is shown it.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from pocketft.data.layout import DOCUMENT, TOKEN, FlatFile

if TYPE_CHECKING:
    from pocketft.data.tokenizer import TextTokenizer

SAMPLES = 3
SAMPLE_TOKENS = 96
_BLOCK = 1 << 16


@dataclass(frozen=True)
class Lengths:
    """`documents` of `first` to `last` tokens."""

    first: int
    last: int
    documents: int


def document_lengths(tokens_dir: Path) -> list[Lengths]:
    """A histogram whose bins double, from the shortest document to the longest, without empty ends."""
    counts = np.zeros(64, dtype=np.int64)
    with FlatFile(tokens_dir / "documents.bin", DOCUMENT) as documents:
        for start in range(0, len(documents), _BLOCK):
            tokens = np.maximum(documents.read(start, _BLOCK)["count"], 1)
            counts += np.bincount(np.log2(tokens).astype(np.int64), minlength=64)
    used = np.flatnonzero(counts)
    if not len(used):
        return []
    return [Lengths(1 << bin_, (2 << bin_) - 1, int(counts[bin_])) for bin_ in range(int(used[0]), int(used[-1]) + 1)]


def sample_texts(tokens_dir: Path, tokenizer: TextTokenizer) -> list[str]:
    """How up to three documents begin, spread evenly, decoded from their tokens: exactly what is learned."""
    texts = []
    with (
        FlatFile(tokens_dir / "documents.bin", DOCUMENT) as documents,
        FlatFile(tokens_dir / "tokens.i32", TOKEN) as tokens,
    ):
        count = min(SAMPLES, len(documents))
        for number in range(count):
            document = documents.read((2 * number + 1) * len(documents) // (2 * count), 1)[0]
            ids = tokens.read(int(document["start"]), min(SAMPLE_TOKENS, int(document["count"])))
            texts.append(tokenizer.backend.decode(ids.tolist(), skip_special_tokens=True).strip())
    return texts
