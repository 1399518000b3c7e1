"""Sizes as people write them, and back."""

from __future__ import annotations

import pytest

from pocketft.errors import UsageError
from pocketft.memory.size import format_size, parse_size


@pytest.mark.parametrize(
    ("text", "size_bytes"),
    [
        ("1GB", 1024**3),
        ("1gib", 1024**3),
        ("1.5 GB", 3 * 1024**3 // 2),
        ("700MB", 700 * 1024**2),
        (" 2g ", 2 * 1024**3),
        (".5G", 1024**3 // 2),
        ("64K", 64 * 1024),
        ("1TB", 1024**4),
        ("123B", 123),
        ("123 bytes", 123),
    ],
)
def test_sizes_are_read_in_powers_of_1024(text: str, size_bytes: int) -> None:
    assert parse_size(text) == size_bytes


@pytest.mark.parametrize(
    "text", ["", "5", "GB", "-1GB", "1,5GB", "1.2.3GB", "nanGB", "1e3MB", "0MB", "9" * 30 + "GB", "1 GB x"]
)
def test_what_is_no_size_is_answered_with_an_example(text: str) -> None:
    with pytest.raises(UsageError, match=r"for example 700MB or 1\.5GB"):
        parse_size(text)


@pytest.mark.parametrize(
    ("size_bytes", "text"),
    [
        (0, "0 B"),
        (1023, "1023 B"),
        (1536, "1.5 KB"),
        (700 * 1024**2, "700 MB"),
        (98_362_432, "93.8 MB"),
        (1024**3 - 1, "1 GB"),
        (1024**3, "1 GB"),
        (1.25 * 1024**3, "1.25 GB"),
        (23.54 * 1024**3, "23.5 GB"),
        (5000 * 1024**4, "5000 TB"),
        (-700 * 1024**2, "-700 MB"),
    ],
)
def test_sizes_are_written_with_three_figures(size_bytes: float, text: str) -> None:
    assert format_size(size_bytes) == text


@pytest.mark.parametrize("size_bytes", [1, 999, 5 << 10, 123 << 20, 999 << 20, 3 << 30, 7 << 40])
def test_a_written_size_reads_back_within_its_figures(size_bytes: int) -> None:
    assert parse_size(format_size(size_bytes)) == pytest.approx(size_bytes, rel=0.005)
