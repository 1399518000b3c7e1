"""`pocketft inspect`: what is in an adapter, and whether several can be merged."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from pocketft.cli import options
from pocketft.cli.console import colours, facts, print_json, table
from pocketft.files import expanded
from pocketft.memory.size import format_size

if TYPE_CHECKING:
    from pocketft.adapters.inspect import AdapterReport, Comparison

_HEAT = " ▁▂▃▄▅▆▇█"
_COLOURS = (17, 18, 19, 55, 91, 127, 163, 199, 208)  # of 256: blue over violet to orange


def inspect(
    adapters: options.Adapters,
    json: options.Json = False,
) -> None:
    """Show what an adapter changes and where it comes from; with several, whether they can be merged."""
    from pocketft.adapters.inspect import compare, inspect_adapter
    from pocketft.adapters.merge_files import read_adapters

    states = read_adapters([expanded(name) for name in adapters])
    reports = [inspect_adapter(state) for state in states]
    comparison = compare(states) if len(states) > 1 else None
    if json:
        print_json(_json(reports, comparison))
        return
    for report in reports:
        _show(report)
        print()
    if comparison is not None:
        _show_comparison(comparison)


def _json(reports: Sequence[AdapterReport], comparison: Comparison | None) -> dict[str, Any]:
    if comparison is None:
        return reports[0].to_json()
    return {"adapters": [report.to_json() for report in reports], "comparison": comparison.to_json()}


def _show(report: AdapterReport) -> None:
    values = report.to_json()
    base, made = values["base"], values["provenance"]
    ranks, alphas = values["ranks"], values["alphas"]
    metrics = made.get("metrics") if isinstance(made.get("metrics"), dict) else {}
    print(values["name"])
    facts(
        [
            ("kind", values["kind"] + (", rank-stabilised" if values["use_rslora"] else "")),
            ("base", ", ".join(str(base[key]) for key in ("name", "quantization", "revision") if base[key])),
            ("base file", base["artifact_sha256"]),
            ("rank", _numbers(ranks)),
            ("alpha", _numbers(alphas)),
            ("targets", ", ".join(values["targets"])),
            ("modules", values["modules"]),
            ("parameters", f"{values['parameters']:,}"),
            ("size", format_size(values["size_bytes"])),
            ("update norm", f"{report.norm:.4g}"),
            ("effective rank", f"{report.effective_rank:.1f}"),
            ("spectrum", _spectrum(report.spectrum)),
            ("tokens", _count(made.get("tokens"))),
            ("steps", _count(made.get("steps"))),
            ("held-out loss", _losses(metrics)),
            ("merged from", _parents(made.get("parents"))),
            ("problems", "; ".join(report.problems)),
        ]
    )
    _show_heat(report)


def _show_heat(report: AdapterReport) -> None:
    """One row for each projection, one cell for each layer: the norm of its update."""
    layers = list(report.layer_norms)
    projections = list(dict.fromkeys(module.projection for module in report.modules if module.layer is not None))
    strongest = max((module.norm for module in report.modules), default=0.0)
    if not layers or not strongest:
        return
    norms = {(module.projection, module.layer): module.norm for module in report.modules}
    width = max(len(name) for name in [*projections, "whole layer"])
    print(f"\n{'norms by layer':<{width}}  {layers[0]} to {layers[-1]}, strongest {strongest:.3g}")
    for projection in projections:
        print(f"{projection:<{width}}  {_bar([norms.get((projection, layer), 0.0) for layer in layers], strongest)}")
    whole = list(report.layer_norms.values())
    print(f"{'whole layer':<{width}}  {_bar(whole, max(whole))}")


def _bar(values: Sequence[float], strongest: float) -> str:
    cells = []
    for value in values:
        step = round(value / strongest * (len(_HEAT) - 1)) if value else 0
        cells.append(f"\033[38;5;{_COLOURS[step]}m{_HEAT[step]}\033[0m" if colours() else _HEAT[step])
    return "".join(cells)


def _show_comparison(comparison: Comparison) -> None:
    if comparison.cosines is not None:
        numbers = [str(number) for number in range(1, len(comparison.labels) + 1)]
        rows = zip(numbers, comparison.labels, comparison.cosines, strict=True)
        table(["", "cosines", *numbers], [[number, label, *(f"{c:.2f}" for c in row)] for number, label, row in rows])
        print()
    if comparison.can_merge:
        print("can be merged")
    else:
        print("cannot be merged")
        for reason in comparison.reasons:
            print(f"  {reason}")
    for notice in comparison.notices:
        print(f"  {notice}")


def _spectrum(shares: Sequence[float]) -> str:
    """The shares of the energy by direction, strongest first, and how many directions hold nine tenths."""
    if not shares:
        return ""
    total, needed = 0.0, 0
    for share in shares:
        total, needed = total + share, needed + 1
        if total >= 0.9:
            break
    plural = "s" if needed != 1 else ""
    return (
        f"{_bar(shares[:64], max(shares))}  {needed} direction{plural} of {len(shares)} hold{'' if plural else 's'} 90%"
    )


def _numbers(values: Sequence[float]) -> str:
    return "" if not values else f"{values[0]:g}" if len(values) == 1 else f"{values[0]:g} to {values[-1]:g}"


def _count(value: object) -> str:
    return f"{value:,}" if type(value) is int and abs(value) < 10**15 else ""


def _losses(metrics: dict[str, Any]) -> str:
    found = [metrics.get(name) for name in ("eval_loss", "base_eval_loss")]
    if not isinstance(found[0], (int, float)):
        return ""
    return f"{found[0]:.4f}" + (f" (base {found[1]:.4f})" if isinstance(found[1], (int, float)) else "")


def _parents(parents: object) -> str:
    from pocketft.adapters.folder import printable

    if not isinstance(parents, list):
        return ""
    return ", ".join(printable(str(parent.get("name"))) for parent in parents[:20])
