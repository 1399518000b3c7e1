"""`pocketft eval`: base against adapter, on text the adapter has not seen and on neutral text that shows forgetting.

Knows run folders (of runs and of merges); how an adapter is scored is `scoring.py`'s business.
"""

from __future__ import annotations

import math
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from peft import PeftConfig
from safetensors.torch import load_file
from torch import Tensor

from pocketft.errors import AdapterError
from pocketft.memory.size import parse_size
from pocketft.recipe import Recipe, load_recipe
from pocketft.samples import reference_text
from pocketft.training.events import Reporter
from pocketft.training.preparation import cap_bytes
from pocketft.training.run_folder import ADAPTER_CONFIG, ADAPTER_WEIGHTS, RECIPE, read_info
from pocketft.training.scoring import Scorer, base_recipe, factors, open_scorer


@dataclass(frozen=True)
class EvalResult:
    """The object of `eval --json`. Losses are nats per token; `reference_…` are those of the neutral text."""

    base_loss: float
    loss: float
    base_perplexity: float
    perplexity: float
    reference_base_loss: float
    reference_loss: float


def evaluate(run: Path, data: Sequence[Path], report: Reporter, memory: str | None = None) -> EvalResult:
    """Score the adapter in `run` and its base on all of `data`, inside `memory` or what the run was given.

    Raises DataError where nothing in it can be scored.
    """
    recipe = capped(run_recipe(run, read_info(run)), memory)
    config, state = read_adapter(run)
    adapter = factors(config, state)
    with tempfile.TemporaryDirectory() as folder:
        reference = Path(folder) / "reference.txt"
        reference.write_text(reference_text(), encoding="utf-8")
        ranks = {module: a.shape[0] for module, (a, _) in adapter.items()}
        texts = {"text": tuple(data), "reference": (reference,)}
        with open_scorer(recipe, ranks, texts, cap_bytes(recipe), report) as scorer:
            base = _losses(scorer, report)
            scorer.load(adapter)
            adapted = _losses(scorer, report)
    return EvalResult(
        base_loss=base["text"],
        loss=adapted["text"],
        base_perplexity=_perplexity(base["text"]),
        perplexity=_perplexity(adapted["text"]),
        reference_base_loss=base["reference"],
        reference_loss=adapted["reference"],
    )


def run_recipe(run: Path, info: dict[str, Any]) -> Recipe:
    """What the run was told. A merge was told nothing, and a run of another device knows another device's paths; both
    name their base.
    """
    path = run / RECIPE
    recipe = load_recipe(path) if path.is_file() else None
    if recipe is not None:
        name = Path(recipe.model.name)
        if not name.is_absolute() or name.exists():
            return recipe
    base = info.get("base") or {}
    if not base.get("name"):
        raise AdapterError(f"{run} does not say which base model it belongs to; name a run folder")
    found = base_recipe(base["name"], base.get("quantization"), base.get("artifact_sha256"), base.get("revision"))
    return found if recipe is None else recipe.model_copy(update={"model": found.model})


def capped(recipe: Recipe, memory: str | None) -> Recipe:
    """The recipe with another cap, where one is given. Raises UsageError where that is no size."""
    if memory is None:
        return recipe
    parse_size(memory)
    return recipe.model_copy(update={"memory": recipe.memory.model_copy(update={"max": memory})})


def read_adapter(folder: Path) -> tuple[PeftConfig, dict[str, Tensor]]:
    """A PEFT folder's configuration and tensors. Raises AdapterError."""
    for name in (ADAPTER_CONFIG, ADAPTER_WEIGHTS):
        if not (folder / name).is_file():
            raise AdapterError(f"{folder} has no {name}: its run came to no adapter yet; go on with --resume")
    try:
        return PeftConfig.from_pretrained(str(folder)), load_file(folder / ADAPTER_WEIGHTS)
    except Exception as error:  # PEFT and safetensors raise what their parsers raise
        reason = str(error).splitlines()[0][:200] if str(error) else type(error).__name__
        raise AdapterError(f"{folder} holds no adapter that can be read: {reason}") from error


def _losses(scorer: Scorer, report: Reporter) -> dict[str, float]:
    return {name: scorer.loss(name, report) for name in scorer.texts}


def _perplexity(loss: float) -> float:
    return math.exp(min(loss, 700.0))
