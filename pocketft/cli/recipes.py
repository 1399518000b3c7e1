"""`pocketft recipes`: the recipes that come with the program."""

from __future__ import annotations

from typing import Annotated

import typer

from pocketft.cli import options
from pocketft.cli.console import print_json, table

recipes_app = typer.Typer(help="Ready recipes: list them, or show one in full.")


@recipes_app.callback(invoke_without_command=True)
def list_recipes(context: typer.Context, json: options.Json = False) -> None:
    """Ready recipes: list them, or show one in full."""
    if context.invoked_subcommand is not None:
        return
    from pocketft.recipe import recipe_summary, shipped_recipes

    found = [{"name": name, "summary": recipe_summary(path)} for name, path in shipped_recipes().items()]
    if json:
        print_json(found)
    else:
        table(["recipe", "what for"], [(recipe["name"], recipe["summary"]) for recipe in found])


@recipes_app.command("show")
def show(
    name: Annotated[str, typer.Argument(metavar="R", help="A shipped recipe or a YAML file.", show_default=False)],
    overrides: options.Overrides = None,
    json: options.Json = False,
) -> None:
    """Print a recipe with every default written out, as a start for your own."""
    from pocketft.recipe import load_recipe

    recipe = load_recipe(name, overrides or ())
    if json:
        print_json(recipe.model_dump())
    else:
        print(recipe.to_yaml(), end="")
