"""`pocketft export`: take an adapter to another program."""

from __future__ import annotations

from enum import Enum
from typing import Annotated

import typer

from pocketft.cli import options
from pocketft.cli.choices import cap_bytes, existing_paths
from pocketft.cli.console import facts, print_json, reporter
from pocketft.files import expanded
from pocketft.memory.size import format_size


class Target(str, Enum):
    gguf = "gguf"
    ollama = "ollama"
    merged = "merged"
    peft = "peft"


class Quantize(str, Enum):
    q8_0 = "q8_0"
    f16 = "f16"


class Dtype(str, Enum):
    f16 = "f16"
    bf16 = "bf16"


def export(
    run: Annotated[
        str, typer.Argument(metavar="RUN", help="A run folder, a merge or a PEFT adapter.", show_default=False)
    ],
    to: Annotated[
        Target,
        typer.Option(
            "--to",
            help="gguf: an adapter for llama.cpp. ollama: a folder for `ollama create`. merged: the whole model. "
            "peft: a folder to share.",
            show_default=False,
        ),
    ],
    output: Annotated[str, typer.Option("--output", "-o", metavar="PATH", help="File or folder.", show_default=False)],
    quantize: Annotated[
        Quantize | None, typer.Option("--quantize", help="Fold the adapter into a GGUF of this kind.")
    ] = None,
    dtype: Annotated[
        Dtype | None, typer.Option("--dtype", help="Of merged safetensors. Default: as the base, else f16.")
    ] = None,
    model: Annotated[
        str | None, typer.Option("--model", metavar="M", help="The base. Default: the one the adapter names.")
    ] = None,
    ollama_version: Annotated[
        str | None,
        typer.Option(
            "--ollama-version", metavar="V", help="Where it is to run. Default: the one here, else the newest."
        ),
    ] = None,
    memory: options.Cap = None,
    force: Annotated[bool, typer.Option("--force", help="Replace an earlier export.")] = False,
    json: options.Json = False,
) -> None:
    """Take an adapter to llama.cpp, Ollama, transformers or a friend."""
    (folder,) = existing_paths([run])
    from pocketft.memory.guard import Guard

    guard = Guard(cap_bytes(memory))  # before the libraries are loaded, so that they count
    if model is not None:
        from pocketft.cli.environment import allow_hub_for

        allow_hub_for(model)
    from pocketft.adapters.export_run import ExportRequest
    from pocketft.adapters.export_run import export as run_export

    request = ExportRequest(
        run=folder,
        to=to.value,
        output=expanded(output),
        guard=guard,
        quantize=quantize and quantize.value,
        dtype=dtype and dtype.value,
        model=model,
        ollama_version=ollama_version,
        force=force,
    )
    with reporter(f"{folder} → {request.output}") as report:
        result = run_export(request, report)
    if json:
        print_json(result)
        return
    rounding = None if result.rounding is None else f"{100 * result.rounding:.2g}% of the update's size"
    facts(
        [
            ("written", result.output),
            ("size", format_size(result.size_bytes)),
            ("runs in", result.runtime),
            ("rounding noise", rounding),
            *(("" if number else "try it", command) for number, command in enumerate(result.commands)),
        ]
    )
