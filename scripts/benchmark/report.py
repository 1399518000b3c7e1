"""Results on disk: docs/benchmarks.json, and docs/benchmarks.md written from it.

A section is measured by itself and replaces what it measured before; measured in part, it replaces those rows alone,
but none of another machine stays beside them.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from benchmark.known import KNOWN_ELSEWHERE
from benchmark.places import DOCS
from pocketft.files import write_json, write_text
from pocketft.memory.size import format_size

SECTIONS = ("compare", "prediction", "plans", "cap", "shapes")  # in the order of the page
_NUMBER = re.compile(r"[<>] ?\d.*|—|\d[\d.,-]*( ?[KMGT]?B| s)?|\d+ of \d+")
_HEAD = """# Measured

Written by `scripts/bench` from `benchmarks.json`, which holds every single run; do not edit. How to measure it again:
`bash scripts/bench all` on an idle machine.

- *tokens/s*: real tokens of the optimizer steps, the first step left out, the same for all.
- *peak*: VmHWM of the process, libraries included. *anonymous*: the largest RssAnon seen in samples every 20 ms.
- *ready*: seconds from the command to the moment when the first optimizer step begins. *first step*: when it is done.
- A ratio of two contenders is the median of those within each repeat, where they ran in turn or side by side.
- 1 GB is 1024 MB, 1 MB is 1024 x 1024 bytes.
"""


@dataclass(frozen=True)
class Table:
    """The first cell of a row is its name: measuring a row again replaces it."""

    title: str
    columns: tuple[str, ...]
    rows: Sequence[Sequence[str]]
    notes: str = ""


@dataclass(frozen=True)
class Section:
    name: str
    title: str
    about: str
    tables: tuple[Table, ...]
    runs: Sequence[Mapping[str, Any]]
    summary: Callable[[Sequence[Sequence[str]]], Table] | None = None  # of all rows of the last table, old ones too
    peers_python: str | None = None  # the interpreter of peers that took part
    setting: Mapping[str, Any] = field(default_factory=dict)  # machine, versions


def save(section: Section, date: str, folder: Path = DOCS) -> None:
    path = folder / "benchmarks.json"
    known = json.loads(path.read_text(encoding="utf-8")) if path.exists() else {}
    known[section.name] = merged(known.get(section.name), section, date)
    write_json(path, known)
    write_text(folder / "benchmarks.md", page(known))


def merged(before: Mapping[str, Any] | None, section: Section, date: str) -> dict[str, Any]:
    """The section as JSON: rows that were not measured this time stay, with their own date and commit, where they were
    measured on the same machine.
    """
    if before is not None and _processor(before) != _processor(section.setting):
        before = None
    from_now = {"date": date, "commit": section.setting.get("versions", {}).get("pocketft", {}).get("commit")}
    earlier = {table["title"]: table["rows"] for table in (before or {}).get("tables", ())}
    tables = []
    for table in section.tables:
        rows = [{"cells": list(cells), **from_now} for cells in table.rows]
        kept = [row for row in earlier.pop(table.title, ()) if len(row["cells"]) == len(table.columns)]
        by_name = {row["cells"][0]: row for row in [*kept, *rows]}  # where a row was before, it is again
        tables.append(_entry(table, list(by_name.values())))
    if section.summary is not None:
        summary = section.summary([row["cells"] for row in tables[-1]["rows"]])
        earlier.pop(summary.title, None)
        tables.insert(0, _entry(summary, [{"cells": list(cells), **from_now} for cells in summary.rows]))
    for table_before in (before or {}).get("tables", ()):
        if table_before["title"] in earlier:
            tables.append(table_before)
    measured = {run["name"] for run in section.runs}
    runs = [run for run in (before or {}).get("runs", ()) if run["name"] not in measured]
    return {
        "title": section.title,
        "about": section.about,
        "date": date,
        **section.setting,
        "versions": {**(before or {}).get("versions", {}), **section.setting.get("versions", {})},
        "tables": tables,
        "runs": [*runs, *section.runs],
    }


def _processor(section: Mapping[str, Any]) -> tuple[Any, ...]:
    machine = section.get("machine") or {}
    return machine.get("cpu"), machine.get("flags")


def _entry(table: Table, rows: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    return {"title": table.title, "columns": list(table.columns), "rows": rows, "notes": table.notes}


def page(known: Mapping[str, Any]) -> str:
    parts = [_HEAD]
    for name in sorted(known, key=lambda name: SECTIONS.index(name) if name in SECTIONS else len(SECTIONS)):
        section = known[name]
        parts.append(f"## {section['title']}\n\n{section['about']}\n")
        parts.append(_where(section))
        for table in section["tables"]:
            if table["rows"]:
                parts.append(f"### {table['title']}\n")
                parts.append(markdown(table["columns"], [row["cells"] for row in table["rows"]]))
                parts.append(table["notes"] + "\n" if table["notes"] else "")
    parts.append(
        "## Known elsewhere\n\nFigures that others report, not measured here; machines and definitions differ.\n"
    )
    parts.append(markdown(("what", "figure", "where from"), KNOWN_ELSEWHERE))
    return "\n".join(part for part in parts if part)


def _where(section: Mapping[str, Any]) -> str:
    rows = [row for table in section["tables"] for row in table["rows"]]
    dates = sorted({row["date"] for row in rows} | {section["date"]})
    when = dates[0] if len(dates) == 1 else f"{dates[0]} to {dates[-1]}"
    machine = section.get("machine")
    if machine is None:
        return f"Measured {when}.\n"
    words = [
        f"Measured {when} on {machine['cpu']}, {machine['cores']} cores, {machine['threads']} threads used,",
        f"{format_size(machine['memory_bytes'])}, {' '.join(machine['flags']) or 'no listed features'};",
    ]
    for name, found in section.get("versions", {}).items():
        if "commit" in found:
            commits = sorted({row.get("commit") or found["commit"] for row in rows})
            found = {**found, "commit": " and ".join(commits)}
        words.append(f"{name}: {', '.join(f'{key} {value}' for key, value in found.items() if key != name)};")
    return " ".join(words).rstrip(";") + ".\n"


def markdown(columns: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """A table whose columns line up in plain text too; columns of numbers are set right."""
    cells = [[_cell(cell) for cell in row] for row in rows]
    widths = [max(3, *(len(row[index]) for row in [list(columns), *cells])) for index in range(len(columns))]
    right = [
        index > 0 and all(not row[index] or _NUMBER.fullmatch(row[index]) for row in cells)
        for index in range(len(columns))
    ]
    lines = [
        _line(columns, widths, right),
        "|"
        + "|".join(
            "-" * (width + 1) + (":" if is_right else "-") for width, is_right in zip(widths, right, strict=True)
        )
        + "|",
        *(_line(row, widths, right) for row in cells),
    ]
    return "\n".join(lines) + "\n"


def _line(cells: Sequence[str], widths: Sequence[int], right: Sequence[bool]) -> str:
    padded = [
        cell.rjust(width) if is_right else cell.ljust(width)
        for cell, width, is_right in zip(cells, widths, right, strict=True)
    ]
    return "| " + " | ".join(padded) + " |"


def _cell(cell: str) -> str:
    return str(cell).replace("|", "/").replace("\n", " ") or "—"


def show(section: Section) -> str:
    """For the terminal."""
    return "\n".join(f"\n{table.title}\n{markdown(table.columns, table.rows)}{table.notes}" for table in section.tables)
