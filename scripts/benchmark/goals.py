"""What a row has to reach (must) and should reach (aim), by the row's name as it stands in the table.

A row without goals is only measured.
"""

from __future__ import annotations

GOALS: dict[str, tuple[str, str]] = {
    "seconds from command to first optimizer step, warm cache": ("", "< 12"),
}


def goals(row: str) -> tuple[str, str]:
    return GOALS.get(row, ("", ""))
