"""`pocketft init-group`: the common start of devices that will merge their adapters."""

from __future__ import annotations

from typing import Annotated

import typer

from pocketft.cli import options
from pocketft.cli.choices import Choices, cap_bytes
from pocketft.cli.console import facts, print_json, reporter
from pocketft.files import expanded


def init_group(
    folder: Annotated[str, typer.Argument(metavar="DIR", help="Folder for the start.", show_default=False)],
    model: options.Model = None,
    recipe: options.RecipeName = None,
    overrides: options.Overrides = None,
    seed: options.Seed = None,
    memory: options.Cap = None,
    force: Annotated[bool, typer.Option("--force", help="Replace the start in DIR.")] = False,
    json: options.Json = False,
) -> None:
    """Write one LoRA initialisation and recipe for devices that will merge what they learn."""
    chosen = Choices([], model=model, recipe=recipe, overrides=overrides or (), seed=seed).resolved_recipe()
    output, cap = expanded(folder), cap_bytes(memory or chosen.memory.max)
    from pocketft.adapters.folder import check_output
    from pocketft.adapters.group import write_group
    from pocketft.adapters.state import BaseIdentity
    from pocketft.training.preparation import open_base

    check_output(output, force=force)
    with reporter("init-group") as report:
        base = open_base(chosen.model.name, chosen.model.quantization, report, cap)
    info = write_group(output, base.config, BaseIdentity(**base.to_json()), chosen, force=force).info
    if json:
        values = {
            "group": info.provenance["group"],
            "base": base.public_name,
            "rank": info.max_rank,
            "seed": chosen.training.seed,
        }
        print_json({"adapter": str(output), **values, "modules": len(info.modules), "parameters": info.parameters})
        return
    facts(
        [
            ("start", output),
            ("base", base.public_name),
            ("rank", info.max_rank),
            ("modules", len(info.modules)),
            ("group", info.provenance["group"]),
        ]
    )
    print(f"\nCopy {output} to every device, train there from it, and merge what comes back with `pocketft merge`.")
