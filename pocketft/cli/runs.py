"""`pocketft runs`: the runs in a folder, newest last, and how good each is."""

from __future__ import annotations

import json as json_module
import time
from pathlib import Path
from typing import Annotated, Any

import typer

from pocketft.cli import options
from pocketft.cli.console import notice, print_json, table
from pocketft.errors import UsageError
from pocketft.files import expanded


def runs(
    folder: Annotated[str, typer.Argument(metavar="FOLDER", help="Where the runs are.")] = "runs",
    json: options.Json = False,
) -> None:
    """List runs and how good each is."""
    root = expanded(folder)
    if not root.is_dir():
        if folder != "runs":
            raise UsageError(f"no such folder: {folder}; name the one that holds your runs")
        found = []
    else:
        found = find_runs(root)
    if json:
        print_json(found)
    elif not found:
        notice(f"no runs in {root}/ yet; `pocketft train NOTES` makes one, `pocketft demo` shows how")
    else:
        header = ["run", "base", "state", "steps", "loss", "held out", "base held out", "when"]
        table(header, [[_cell(name, run[name]) for name in _FIELDS] for run in found])


_FIELDS = ("run", "base", "state", "steps", "loss", "eval_loss", "base_eval_loss", "modified")


def find_runs(root: Path) -> list[dict[str, Any]]:
    """`root` itself or the folders in it that hold a `pocketft.json`, oldest first."""
    files = [root / "pocketft.json", *root.glob("*/pocketft.json")]
    found = [run for file in files if file.is_file() and (run := _read(file)) is not None]
    return sorted(found, key=lambda run: run["modified"])


def _read(file: Path) -> dict[str, Any] | None:
    """What the list shows of one run; a damaged file is named and left out."""
    try:
        info = json_module.loads(file.read_text(encoding="utf-8"))
        modified = file.stat().st_mtime
    except (OSError, ValueError) as error:
        notice(f"warning: {file} cannot be read ({type(error).__name__}); left out")
        return None
    if not isinstance(info, dict):
        notice(f"warning: {file} is not a run's description; left out")
        return None
    base, metrics = info.get("base"), info.get("metrics")
    metrics = metrics if isinstance(metrics, dict) else {}
    return {
        "run": str(file.parent),
        "base": base.get("name") if isinstance(base, dict) else None,
        "state": _state(file.parent, info),
        "steps": info.get("steps"),
        **{name: metrics.get(name) for name in ("loss", "eval_loss", "base_eval_loss")},
        "modified": modified,
    }


def _state(run: Path, info: dict[str, Any]) -> str:
    if info.get("parents"):
        return "merged"
    if info.get("finished", True):
        return "finished"
    return "can be resumed" if any((run / "checkpoints").glob("checkpoint-*")) else "begun"


def _cell(name: str, value: Any) -> str:
    if name == "modified":
        return time.strftime("%Y-%m-%d %H:%M", time.localtime(value))
    return f"{value:.4f}" if isinstance(value, float) else str("" if value is None else value)
