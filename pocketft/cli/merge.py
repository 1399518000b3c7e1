"""`pocketft merge`: several adapters of one base become one."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from enum import Enum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from pocketft.cli import options
from pocketft.cli.choices import cap_bytes, existing_paths
from pocketft.cli.console import Report, facts, print_json, reporter, table
from pocketft.errors import UsageError
from pocketft.files import expanded

if TYPE_CHECKING:
    from pocketft.adapters.check import CheckReport, Scorer
    from pocketft.adapters.folder import FolderAdapter
    from pocketft.adapters.merge_files import MergeOutcome
    from pocketft.adapters.merge_report import MergeReport, ParentReport


class Method(str, Enum):
    exact = "exact"
    fedavg = "fedavg"
    ffa = "ffa"
    ties = "ties"
    dare = "dare"


class Robust(str, Enum):
    none = "none"
    multikrum = "multikrum"
    geomedian = "geomedian"
    trimmed = "trimmed"


_HOW = "How to combine"
_TRUST = "Whom to believe"


def _how(*names: str, **details: Any) -> Any:
    return typer.Option(*names, rich_help_panel=_HOW, **details)


def _trust(*names: str, **details: Any) -> Any:
    return typer.Option(*names, rich_help_panel=_TRUST, **details)


Weights = Annotated[
    str | None, _how("--weights", metavar="W,W,…", help="Shares, e.g. 2,1,1. Default: by tokens trained on.")
]
Rank = Annotated[int | None, _how("--rank", metavar="N", help="Rank of the merge.")]
Energy = Annotated[
    float | None, _how("--energy", metavar="E", help="Smallest rank that keeps this part. Default: 0.99.")
]
Lossless = Annotated[bool, _how("--lossless", help="Keep every direction; clips nothing unless told to.")]
Density = Annotated[float, _how("--density", metavar="D", help="Part of the entries kept (ties, dare).")]
Seed = Annotated[int, _how("--seed", metavar="N", help="For the random draw (dare).")]
Clip = Annotated[
    str | None, _trust("--clip", metavar="C", help="none, median (default) or a norm: shorten longer updates.")
]
RobustRule = Annotated[Robust, _trust("--robust", help="Drop or outvote what lies far from the rest.")]
Check = Annotated[
    list[str] | None, _trust("--check", metavar="TEXT", help="Score it all on held-out text first. Repeatable.")
]
CheckModel = Annotated[
    str | None, _trust("--model", metavar="M", help="Base to score on. Default: the one the adapters name.")
]
Quantization = Annotated[
    bool, _trust("--allow-different-quantization", help="Merge adapters of one model in different quantizations.")
]
Output = Annotated[str, typer.Option("--output", "-o", metavar="DIR", help="Folder for the merge.", show_default=False)]
Force = Annotated[
    bool, typer.Option("--force", help="Replace the adapter in --output; write a merge worse than the base.")
]


def merge(
    adapters: options.Adapters,
    output: Output,
    method: Annotated[Method, _how("--method", help="exact averages the updates.")] = Method.exact,
    weights: Weights = None,
    rank: Rank = None,
    energy: Energy = None,
    lossless: Lossless = False,
    density: Density = 0.5,
    seed: Seed = 0,
    clip: Clip = None,
    robust: RobustRule = Robust.none,
    check: Check = None,
    model: CheckModel = None,
    allow_different_quantization: Quantization = False,
    memory: options.Cap = None,
    force: Force = False,
    json: options.Json = False,
) -> None:
    """Combine adapters from several devices into one, without loading the base model."""
    paths, texts = [expanded(name) for name in adapters], existing_paths(check or [])
    if model is not None and not texts:
        raise UsageError("--model says what to score on; give the text with --check")
    shares, limit, cap = _weights(weights), _clip(clip), cap_bytes(memory)
    from pocketft.memory.guard import Guard

    guard = Guard(cap)  # before the libraries are loaded, so that they count
    if model is not None:
        from pocketft.cli.environment import allow_hub_for

        allow_hub_for(model)
    from pocketft.adapters.merge_files import merge_files
    from pocketft.adapters.merge_settings import MergeSettings

    settings = MergeSettings(
        method=method.value,
        weights=shares,
        rank=rank,
        energy=energy,
        lossless=lossless,
        density=density,
        clip=limit,
        robust=robust.value,
        seed=seed,
        allow_different_quantization=allow_different_quantization,
    )
    with reporter("merge") as report:
        outcome = merge_files(
            paths,
            expanded(output),
            settings,
            score=_scorer(texts, model, cap, report) if texts else None,
            force=force,
            guard=guard,
            notice=lambda message: report({"event": "notice", "level": "info", "message": message}),
        )
    if json:
        print_json(outcome.to_json())
    else:
        _show(outcome)


def _weights(text: str | None) -> tuple[float, ...] | None:
    if text is None:
        return None
    try:
        return tuple(float(part) for part in text.split(","))
    except ValueError:
        raise UsageError(f"--weights {text!r:.60} is not a list of numbers; write for example 2,1,1") from None


def _clip(text: str | None) -> Any:
    if text is None or text in ("none", "median"):
        return text
    try:
        return float(text)
    except ValueError:
        raise UsageError(f"--clip {text!r:.40} is neither none nor median nor a number") from None


def _scorer(
    texts: tuple[Path, ...], model: str | None, cap: int, report: Report
) -> Callable[[Sequence[FolderAdapter]], Scorer]:
    def for_adapters(adapters: Sequence[FolderAdapter]) -> Scorer:
        from pocketft.training.scoring import score_factors

        name, quantization = _base_to_score(adapters, model)
        return lambda ranks, candidates: score_factors(name, quantization, ranks, candidates, texts, cap, report)

    return for_adapters


def _base_to_score(adapters: Sequence[FolderAdapter], model: str | None) -> tuple[str, str]:
    """As the first adapter that knows it says where its base is found."""
    from pocketft.adapters.export_base import recorded_base

    if model is not None:
        return model, "auto"
    for adapter in adapters:
        name, quantization = recorded_base(adapter)
        if name is not None:
            return name, quantization
    raise UsageError("--check needs the base model, and no adapter names it; give it with --model")


def _show(outcome: MergeOutcome) -> None:
    report = outcome.report
    header = ["adapter", "share", "tokens", "norm", "clipped to", "cosine", ""]
    table(header, [_row(parent) for parent in report.parents])
    print()
    facts(_facts(report))
    if outcome.check is not None:
        print()
        table(["held-out loss", "alone", "merge without it"], _check_rows(outcome.check))
    print(f"\nmerged into {outcome.output}")


def _row(parent: ParentReport) -> list[object]:
    remarks = [*(["dropped"] if parent.dropped else []), *parent.outlier]
    return [
        parent.label,
        f"{100 * parent.weight:.1f}%",
        "" if parent.tokens is None else f"{parent.tokens:,}" if parent.tokens < 10**15 else "many",
        f"{parent.norm:.3g}",
        f"{100 * parent.clip_scale:.3g}%" if parent.clip_scale < 1 else "",
        "" if parent.cosine_to_others is None else f"{parent.cosine_to_others:.2f}",
        "; ".join(remarks),
    ]


def _facts(report: MergeReport) -> list[tuple[str, object]]:
    worst = report.worst_module
    lost = f"{100 * (1 - report.energy_kept):.2f}%"
    if worst is not None:
        lost += f" (most in {worst}: {100 * (1 - report.worst_module_energy_kept):.2f}%)"
    missing = "; ".join(
        f"{label} lacks {len(names)} modules, counted as zero" for label, names in report.missing.items()
    )
    error = report.cross_term_error
    return [
        ("method", report.method if report.robust == "none" else f"{report.method}, {report.robust}"),
        ("shares by", report.weights_by),
        ("rank", f"{report.rank} of {report.stacked_rank} stacked"),
        ("energy lost", lost if error is None else None),
        ("cross-term error", None if error is None else f"{100 * error:.1f}% of the mean update"),
        ("modules", report.modules),
        ("parameters", f"{report.parameters:,}"),
        ("missing", missing),
        ("two adapters", "; ".join(report.disagreement)),
    ]


def _check_rows(check: CheckReport) -> list[list[object]]:
    rows: list[list[object]] = [["base", f"{check.base:.4f}", ""], ["merge", f"{check.merge:.4f}", ""]]
    for label, loss in check.adapters.items():
        without = check.without.get(label)
        rows.append([label, f"{loss:.4f}", "" if without is None else f"{without:.4f}"])
    return rows
