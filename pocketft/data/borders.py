"""Where a text may be cut: between paragraphs, sentences, lines and words, as positions in characters.

Knows characters only; `token_levels` carries the answer over to the tokens that a tokenizer made of them.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator

import numpy as np
from numpy.typing import NDArray

NONE, WORD, LINE, SENTENCE, PARAGRAPH = range(5)

PART_CHARS = 32_768  # what is tokenized at once: large enough to be fast, small enough to be nothing in memory

# One byte of flags for each character of the basic plane: a lookup is much faster than comparisons.
_SPACE, _NEWLINE, _ENDER, _WIDE_ENDER, _CLOSER, _WORDLIKE = (1 << bit for bit in range(6))
_FLAGS = np.zeros(0x10000, dtype=np.uint8)
_FLAGS[[code for code in range(0x3100) if chr(code).isspace()]] |= _SPACE
_FLAGS[[0x0A, 0x0B, 0x0C, 0x0D, 0x85, 0x2028, 0x2029]] |= _NEWLINE
_FLAGS[[ord(mark) for mark in ".!?…。！？؟۔।॥։።᙮"]] |= _ENDER
_FLAGS[[ord(mark) for mark in "。！？"]] |= _WIDE_ENDER  # no space follows these
_FLAGS[[ord(mark) for mark in "\"')]}»”’」』）］】、，"]] |= _CLOSER
# Ideographs and Hiragana are words of their own for Unicode's word borders (UAX 29) where no dictionary is at hand.
for _first, _last in ((0x3041, 0x309F), (0x3400, 0x4DBF), (0x4E00, 0x9FFF), (0xF900, 0xFAFF)):
    _FLAGS[_first : _last + 1] |= _WORDLIKE
_WORDLIKE_PLANES = (0x20000, 0x3FFFF)


def char_levels(text: str) -> tuple[NDArray[np.uint8], NDArray[np.bool_]]:
    """For each character, how good a border lies right before it (NONE..PARAGRAPH), and whether it is white space.

    The best borders lie right before the first character after white space. What precedes `text` is unknown, so its
    first character is judged by white space within `text` alone.
    """
    codes = np.frombuffer(text.encode("utf-32-le", "surrogatepass"), dtype=np.uint32)
    levels = np.zeros(len(codes), dtype=np.uint8)
    flags = _FLAGS[np.minimum(codes, 0xFFFF)]
    flags[(codes >= _WORDLIKE_PLANES[0]) & (codes <= _WORDLIKE_PLANES[1])] |= _WORDLIKE
    space = (flags & _SPACE) != 0
    if not len(codes):
        return levels, space
    index = np.arange(len(codes))
    newlines = np.concatenate([[0], np.cumsum((flags & _NEWLINE) != 0)])
    last_word_char = np.maximum.accumulate(np.where(space, -1, index))
    after_ender = _after_ender(flags)

    starts = np.flatnonzero(~space[1:] & space[:-1]) + 1  # first characters after white space
    before = last_word_char[starts - 1]  # -1: only white space before
    breaks = newlines[starts] - newlines[before + 1]
    ended = after_ender[before] & (before >= 0)
    level = np.where(breaks >= 2, PARAGRAPH, np.where(ended, SENTENCE, np.where(breaks == 1, LINE, WORD)))
    levels[starts] = level
    levels[space] = WORD

    inner = index[1:][~space[1:] & ~space[:-1] & ((flags[1:] & (_ENDER | _CLOSER)) == 0)]
    levels[inner[((flags[inner] | flags[inner - 1]) & _WORDLIKE) != 0]] = WORD
    levels[inner[(flags[inner - 1] & _WIDE_ENDER) != 0]] = SENTENCE
    return levels, space


def token_levels(text: str, starts: NDArray[np.int64], ends: NDArray[np.int64]) -> NDArray[np.uint8]:
    """How good a border lies right before each token, given the tokens' character spans in `text`.

    Tokenizers differ in whether the space belongs to the following word and to its span; a token that begins with white
    space counts as beginning at the word in it.
    """
    levels, space = char_levels(text)
    size = len(text)
    if not size:
        return np.zeros(len(starts), dtype=np.uint8)
    first_word_char = np.minimum.accumulate(np.where(space, size, np.arange(size))[::-1])[::-1]
    at = np.minimum(starts, size - 1)
    word = first_word_char[at]
    result = np.where(word < ends, levels[np.minimum(word, size - 1)], np.where(space[at], WORD, NONE)).astype(np.uint8)
    # The bytes of one character may be several tokens with one span: no border between them.
    result[1:][starts[1:] < ends[:-1]] = NONE
    return result


def part_end(text: str, limit: int) -> int:
    """Where to cut `text` so that the first part has at most `limit` characters: at the best border in its second half.

    The cut lies before white space, so that the next part begins with the space that tokenizers join to a word. Inside
    a word only where the second half has no border.
    """
    if len(text) <= limit:
        return len(text)
    levels, space = char_levels(text[: limit + 1])
    half = limit // 2
    window = levels[half : limit + 1]
    best = int(window.max())
    if best == NONE:
        return limit
    cut = half + int(np.flatnonzero(window == best)[-1])
    while cut > 1 and space[cut - 1]:
        cut -= 1
    return cut if cut > 1 else limit


def text_parts(pieces: Iterable[str], limit: int = PART_CHARS) -> Iterator[tuple[str, bool]]:
    """Cut a text that arrives in `pieces` into parts of at most `limit` characters, each with "is it the last one".

    Drops blank lines before the text and white space after it, and parts that are nothing but white space.
    """
    held: str | None = None  # a part is handed on once it is known whether another follows
    for part in _all_parts(pieces, limit):
        if part.isspace():
            continue
        if held is None:
            held = re.sub(r"\A\s*\n", "", part)
        else:
            yield held, False
            held = part
    if held is not None:
        yield held.rstrip(), True


def _all_parts(pieces: Iterable[str], limit: int) -> Iterator[str]:
    buffer = ""
    for piece in pieces:
        buffer += piece
        start = 0
        while len(buffer) - start > limit:
            end = start + part_end(buffer[start : start + limit + 1], limit)
            yield buffer[start:end]
            start = end
        buffer = buffer[start:]
    if buffer:
        yield buffer


def _after_ender(flags: NDArray[np.uint8]) -> NDArray[np.bool_]:
    """True where a sentence has ended at this character: a full stop, or up to two closing marks behind one."""
    ender, closer = (flags & _ENDER) != 0, (flags & _CLOSER) != 0
    ended = ender.copy()
    ended[1:] |= closer[1:] & ender[:-1]
    ended[2:] |= closer[2:] & closer[1:-1] & ender[:-2]
    return ended
