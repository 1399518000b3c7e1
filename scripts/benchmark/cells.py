"""Numbers as they stand in tables."""

from __future__ import annotations

from pocketft.memory.size import format_size


def rate(value: float | None) -> str:
    if value is None:
        return ""
    return f"{value:.0f}" if value >= 100 else f"{value:.1f}" if value >= 10 else f"{value:.2f}"


def size(value: float | None) -> str:
    return "" if value is None else format_size(value)


def seconds(value: float | None) -> str:
    return "" if value is None else f"{value:.1f}"


def ratio(value: float | None) -> str:
    return "" if value is None else f"{value:.2f}"


def loss(value: float | None) -> str:
    return "" if value is None else f"{value:.4f}"
