"""The base model's tokenizer, read straight from `tokenizer.json`: ids, character spans, and how a document is framed.

Uses the `tokenizers` library alone. transformers' wrapper gives the same ids (tested) and costs 35 MB more to import,
and for a vocabulary of 262,144 another 245 MB at the peak of loading.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from tokenizers import Tokenizer

from pocketft.data.tokenizer_files import read_config, token_text
from pocketft.errors import ModelError, PocketftError


@dataclass(frozen=True)
class Encoded:
    """Token ids with the characters [start, end) of the text that each stands for."""

    ids: NDArray[np.int32]
    starts: NDArray[np.int64]
    ends: NDArray[np.int64]


@dataclass(frozen=True)
class TextTokenizer:
    """`prefix` is what the tokenizer puts before every text (a BOS, or nothing); `end` is what ends a document."""

    backend: Tokenizer
    prefix: tuple[int, ...]
    end: tuple[int, ...]
    bos_token: str
    eos_token: str
    added_words: tuple[str, ...]  # all added tokens, longest first: "<|im_end|>", "<think>"
    special_words: frozenset[str]  # those of them that a person's text must never be taken for

    def encode(self, texts: list[str], *, control: bool) -> list[Encoded]:
        """Ids without framing. With `control`, special words become their tokens; without, they stay plain text."""
        self.backend.encode_special_tokens = not control
        return [_arrays(encoding) for encoding in self.backend.encode_batch(texts, add_special_tokens=False)]


def load_text_tokenizer(folder: Path) -> TextTokenizer:
    path = folder / "tokenizer.json"
    if not path.is_file():
        raise ModelError(f"the base model has no fast tokenizer: {path} is missing; choose another base model")
    try:
        backend = Tokenizer.from_file(str(path))
    except (PocketftError, MemoryError):
        raise
    except Exception as error:  # the library raises bare Exception
        raise ModelError(f"cannot read {path}: {error}; fetch the base model again") from error
    backend.no_truncation()
    backend.no_padding()
    config = read_config(folder)
    eos = _eos_token(folder, config, backend)
    bos = token_text(config.get("bos_token"))
    before, after = _framing(backend)
    added = [token for token in backend.get_added_tokens_decoder().values() if token.content.strip()]
    framing = {word for word in (bos, eos) if word}
    return TextTokenizer(
        backend=backend,
        prefix=before,
        end=after or (_known(backend, eos),),
        bos_token=bos,
        eos_token=eos,
        added_words=tuple(sorted(framing | {token.content for token in added}, key=len, reverse=True)),
        special_words=frozenset(framing | {token.content for token in added if token.special}),
    )


def _known(backend: Tokenizer, word: str) -> int:
    number = backend.token_to_id(word)
    assert number is not None
    return number


def _framing(backend: Tokenizer) -> tuple[tuple[int, ...], tuple[int, ...]]:
    """What the tokenizer's own post-processor puts before and after a text.

    It alone counts, not `add_bos_token` in the configuration: so it is in transformers 5.
    """
    framed, bare = backend.encode("a").ids, backend.encode("a", add_special_tokens=False).ids
    for start in range(len(framed) - len(bare) + 1):
        if framed[start : start + len(bare)] == bare:
            return tuple(framed[:start]), tuple(framed[start + len(bare) :])
    return (), ()


def _eos_token(folder: Path, config: dict[str, Any], backend: Tokenizer) -> str:
    for candidate in (config.get("eos_token"), read_config(folder, "special_tokens_map.json").get("eos_token")):
        text = token_text(candidate)
        if text and backend.token_to_id(text) is not None:
            return text
    for name in ("generation_config.json", "config.json"):
        ids = read_config(folder, name).get("eos_token_id")
        for number in ids if isinstance(ids, list) else [ids]:
            if isinstance(number, int) and (word := backend.id_to_token(number)):
                return str(word)
    raise ModelError(f"the tokenizer in {folder} names no end-of-text token; choose another base model")


def _arrays(encoding: Any) -> Encoded:
    spans = np.array(encoding.offsets, dtype=np.int64).reshape(-1, 2)
    return Encoded(np.array(encoding.ids, dtype=np.int32), spans[:, 0], spans[:, 1])
