"""`pocketft models`: the base models that can be named, and those on this machine."""

from __future__ import annotations

from typing import Annotated, Any

import typer

from pocketft.cli import options
from pocketft.cli.choices import cap_bytes
from pocketft.cli.console import facts, notice, print_json, reporter, table
from pocketft.memory.size import format_size

models_app = typer.Typer(help="Base models: list, fetch, look at and remove them.")


@models_app.callback(invoke_without_command=True)
def bare(context: typer.Context, json: options.Json = False) -> None:
    """Base models: list, fetch, look at and remove them."""
    if context.invoked_subcommand is None:
        show_list(as_json=json)


@models_app.command("list")
def list_command(json: options.Json = False) -> None:
    """The catalog, and what is in the cache."""
    show_list(as_json=json)


def show_list(*, as_json: bool) -> None:
    from pocketft.models import list_models

    models = list_models()
    if as_json:
        print_json(models)
        return
    table(
        ["model", "size", "licence", "here", "what it is"],
        [
            (
                model.name + (" *" if model.default else ""),
                format_size(model.size_bytes),
                model.licence,
                "yes" if model.cached else "no",
                model.summary,
            )
            for model in models
        ],
    )


@models_app.command()
def pull(
    name: options.BaseName,
    quantization: Annotated[
        str, typer.Option(help="For safetensors: bf16, int8 or nf4. auto keeps a GGUF's own values.")
    ] = "auto",
    memory: options.Cap = None,
    json: options.Json = False,
) -> None:
    """Fetch and prepare a base model, so that training starts at once."""
    from pocketft.cli.environment import allow_hub_for
    from pocketft.recipe import load_recipe

    recipe = load_recipe(None, (), {"model.name": name, "model.quantization": quantization})
    cap = cap_bytes(memory)
    allow_hub_for(name)
    from pocketft.models import pull as pull_model

    with reporter(f"{name}") as report:
        model = pull_model(recipe.model.name, recipe.model.quantization, report, cap)
    if json:
        print_json(model)
    else:
        show_described(model)


@models_app.command()
def show(name: options.BaseName, json: options.Json = False) -> None:
    """What is known of a base model: source, licence, size, where it lies."""
    from pocketft.models import show as show_model

    described = show_model(name)
    if json:
        print_json(described)
    else:
        show_described(described)


def show_described(described: dict[str, Any]) -> None:
    facts(
        [
            (key.replace("_bytes", "").replace("_", " "), format_size(value) if key.endswith("_bytes") else value)
            for key, value in described.items()
        ]
    )


@models_app.command()
def rm(name: options.BaseName) -> None:
    """Remove a base model from the cache; adapters trained on it stay."""
    from pocketft.models import remove

    freed_bytes = remove(name)
    notice(f"removed {name}: {format_size(freed_bytes)} freed")


@models_app.command()
def path(name: options.BaseName) -> None:
    """Print where a base model lies in the cache."""
    from pocketft.models import path as path_of

    print(path_of(name))
