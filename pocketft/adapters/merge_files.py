"""`pocketft merge` without the command line: adapter folders in, one adapter folder out, whole or not at all."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from pocketft.adapters.card import model_card
from pocketft.adapters.check import CheckReport, Scorer, check_merge
from pocketft.adapters.folder import CARD_FILE, FolderAdapter, check_output, read_adapter, write_adapter
from pocketft.adapters.merge import MergedAdapter, merge_states
from pocketft.adapters.merge_report import MergeReport
from pocketft.adapters.merge_settings import MergeSettings
from pocketft.errors import AdapterError, UsageError
from pocketft.memory.guard import Guard


@dataclass(frozen=True)
class MergeOutcome:
    output: Path
    report: MergeReport
    check: CheckReport | None

    def to_json(self) -> dict[str, Any]:
        return {
            "adapter": str(self.output),
            **self.report.to_json(),
            "check": self.check.to_json() if self.check else None,
        }


def merge_files(
    paths: Sequence[Path],
    output: Path,
    settings: MergeSettings,
    *,
    score: Callable[[Sequence[FolderAdapter]], Scorer] | None = None,
    force: bool = False,
    guard: Guard | None = None,
    notice: Callable[[str], None] = lambda message: None,
) -> MergeOutcome:
    """`score`, given the adapters, returns the scorer to check the merge with. Notices are passed on as soon as they
    are known. Merging keeps to the cap of `guard`; the scorer keeps to its own.

    Raises AdapterError for a merge that is worse than the base on the checked text, unless `force`, and MemoryCapError
    where the cap is too small.
    """
    check_output(output, force=force)
    if any(output.resolve() == path.resolve() for path in paths):
        raise UsageError(f"{output} is one of the adapters to merge; choose another folder for the result")
    adapters = read_adapters(paths)
    with _within(guard):
        merged = merge_states(adapters, settings)
    for message in merged.report.notices:
        notice(message)
    check = check_merge(adapters, merged, settings, score(adapters)) if score else None
    if check is not None:
        merged = _with_check(merged, check)
        if check.worse_than_base:
            message = _worse(check)
            if not force:
                raise AdapterError(f"{message}; leave it out, or write the merge anyway with --force")
            notice(message)
        elif check.harmful:
            notice(
                f"{check.harmful} hurts: the merge scores {check.merge:.4f} with it and "
                f"{check.without[check.harmful]:.4f} without"
            )
    with _within(guard):
        write_adapter(output, merged, {CARD_FILE: model_card(merged.info)}, force=force)
    return MergeOutcome(output, merged.report, check)


@contextmanager
def _within(guard: Guard | None) -> Iterator[None]:
    """Scoring is not done in here: it starts other processes, which would inherit the limit."""
    with nullcontext() if guard is None else guard.kept():
        yield


def read_adapters(paths: Sequence[Path]) -> list[FolderAdapter]:
    """Open adapters under labels that tell them apart: folder names, with as many parents as it takes, then numbers."""
    return [read_adapter(path, label) for path, label in zip(paths, _labels(paths), strict=True)]


def _labels(paths: Sequence[Path]) -> list[str]:
    folders = [path.resolve().parent if path.is_file() else path.resolve() for path in paths]
    labels = [folder.name for folder in folders]
    for depth in range(2, 5):
        repeated = {label for label in labels if labels.count(label) > 1}
        labels = [
            "/".join(folder.parts[-depth:]) if label in repeated else label
            for folder, label in zip(folders, labels, strict=True)
        ]
    return [
        f"{label} #{labels[: index + 1].count(label)}" if labels.count(label) > 1 else label
        for index, label in enumerate(labels)
    ]


def _with_check(merged: MergedAdapter, check: CheckReport) -> MergedAdapter:
    provenance = {**merged.info.provenance, "metrics": {"loss": None, **_metrics(check)}}
    return replace(merged, info=replace(merged.info, provenance=provenance))


def _metrics(check: CheckReport) -> dict[str, Any]:
    found = check.to_json()
    return {"eval_loss": found["merge_loss"], "base_eval_loss": found["base_loss"]}


def _worse(check: CheckReport) -> str:
    message = f"the merge is worse than the base on that text (loss {check.merge:.4f} against {check.base:.4f})"
    if check.harmful:
        return f"{message}, and {check.harmful} hurts it most: {check.without[check.harmful]:.4f} without"
    worst = max(check.adapters, key=lambda label: check.adapters[label])
    return f"{message}; the worst adapter by itself is {worst} ({check.adapters[worst]:.4f})"
