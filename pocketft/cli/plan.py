"""`pocketft plan`: what a run would use and how long it would take, without training."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from pocketft.cli import options
from pocketft.cli.choices import Choices
from pocketft.cli.console import duration, print_json, reporter
from pocketft.cli.run_options import run_options
from pocketft.memory.size import format_size


@run_options
def plan(choices: Choices, json: options.Json = False) -> None:
    """Show what a run would use, and train nothing."""
    show_plan(choices, as_json=json)


def show_plan(choices: Choices, *, as_json: bool) -> None:
    request = choices.request()
    from pocketft.training.session import plan as make_plan

    with reporter(f"{request.recipe.model.name}: plan") as report:
        # The session tells the plan as an event too; here it is the result and goes to stdout alone.
        made = make_plan(request, lambda event: None if event["event"] == "plan" else report(event)).to_json()
    if as_json:
        print_json(made)
    else:
        print("\n".join([*plan_lines(made), *other_lines(made)]))


def plan_lines(plan: Mapping[str, Any]) -> list[str]:
    """The plan as aligned lines: the choice, its parts, and the peak against the cap."""
    lines = []
    if plan.get("choice"):
        lines.append(f"plan      {plan['choice']}")
    components = plan.get("components") or {}
    width = max((len(name) for name in components), default=0)
    for name, size_bytes in components.items():
        lines.append(f"  {name.replace('_', ' '):<{width}}  {format_size(size_bytes):>9}")
    peak, cap = plan.get("predicted_peak_bytes"), plan.get("cap_bytes")
    if peak is not None and cap:
        lines.append(f"memory    predicted peak {format_size(peak)} of {format_size(cap)}")
    if plan.get("tokens_per_s"):
        words = f"speed     about {plan['tokens_per_s']:.0f} tokens/s"
        if plan.get("total_s") is not None:
            words += f", {duration(plan['total_s'])} in all"
        lines.append(words)
    return lines


def other_lines(plan: Mapping[str, Any]) -> list[str]:
    """What the plan beat and why, and what more memory would buy."""
    lines = []
    for other in plan["alternatives"]:
        lines.append(f"not       {other['way']}: {other['reason']}")
    more = plan["with_more"]
    if more:
        gain = f"{format_size(more['more_bytes'])} more would give about {more['tokens_per_s']:.0f} tokens/s"
        lines.append(f"more      {gain}: {more['choice']}")
    elif plan["alternatives"]:
        lines.append("more      memory would change nothing")
    return lines
