"""Many adapters scored on the same text over one loaded base.

Knows adapters as factors per module, their scaling folded in, so adapters of different ranks, alphas and targets fit
one model: it is built once with the largest rank, and smaller ones are filled up with zeros, which changes no product.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import torch
from peft import LoraConfig, PeftConfig
from peft.utils.other import get_pattern_key
from torch import Tensor

from pocketft.errors import AdapterError, DataError
from pocketft.memory.guard import hard_limit
from pocketft.memory.plan import Workload
from pocketft.models.recorded import find_recorded
from pocketft.recipe import Recipe, load_recipe
from pocketft.training.data_settings import data_settings
from pocketft.training.events import Reporter
from pocketft.training.held_out import held_out_loss
from pocketft.training.planned_model import PlannedModel
from pocketft.training.preparation import (
    build_planned,
    choose_plan,
    find_device,
    open_base,
    prepare_text,
    workload,
)

if TYPE_CHECKING:
    from pocketft.data.dataset import PreparedData
    from pocketft.engine.model import EngineModel

Factors = Mapping[str, tuple[Tensor, Tensor]]  # module -> A (r, in), B (out, r) with the scaling folded into B
_PREFIX = "base_model.model."


class Scorer:
    """A base with room for an adapter, and the texts to score on. Fresh, it scores the base alone."""

    def __init__(
        self,
        model: EngineModel,
        planned: PlannedModel,
        texts: Mapping[str, PreparedData],
        rows_per_call: int,
        pad_id: int,
    ) -> None:
        self.texts = texts
        self._model, self.planned = model, planned
        self._rows_per_call, self._pad_id = rows_per_call, pad_id

    def load(self, adapter: Factors) -> None:
        """Put `adapter` in place of the one before; {} is the base alone. Raises AdapterError where it does not fit."""
        # from shapes alone: the values of before would be the adapter once more
        state = {
            name.replace(".default.", "."): torch.zeros(room.shape) for name, room in self._model.lora_parameters()
        }
        for module, (a, b) in adapter.items():
            room_a, room_b = (state.get(f"{_PREFIX}{module}.lora_{side}.weight") for side in ("A", "B"))
            if room_a is None or room_b is None:
                raise AdapterError(f"the base model has no layer {module:.80} for an adapter; is it another base's?")
            if a.shape[1] != room_a.shape[1] or b.shape[0] != room_b.shape[0]:
                raise AdapterError(f"the adapter of {module:.80} is of another shape than the base model's layer")
            room_a[: a.shape[0]], room_b[:, : b.shape[1]] = a.float(), b.float()
        self._model.load_adapter_state(state)

    def loss(self, text: str, report: Reporter = lambda event: None) -> float:
        """Mean loss per token of all rows of one text."""
        rows = self.texts[text].train
        loss = held_out_loss(
            self.planned,
            rows,
            range(len(rows)),
            rows_per_call=self._rows_per_call,
            pad_id=self._pad_id,
            report=report,
        )
        if loss is None:
            raise DataError("nothing in the text can be scored; give more of it")
        return loss


@contextmanager
def open_scorer(
    recipe: Recipe,
    ranks: Mapping[str, int],
    texts: Mapping[str, Sequence[Path]],
    cap: int,
    report: Reporter,
) -> Iterator[Scorer]:
    """The recipe's base with room for adapters of up to these ranks by module, inside `cap` bytes.

    `texts`: name -> files and folders, scored whole. The plan is reported before a weight is read.
    """
    device = find_device("auto")
    base = open_base(recipe.model.name, recipe.model.quantization, report, cap)
    settings = replace(data_settings(recipe), val_split=0.0, deduplicate=False, drop_boilerplate=False, min_chars=0)
    data = {name: prepare_text(paths, base, settings, report, cap) for name, paths in texts.items()}
    rank = max(ranks.values())
    lora = LoraConfig(r=rank, lora_alpha=rank, target_modules=sorted(ranks), task_type="CAUSAL_LM")
    work = _workload(recipe, list(data.values()))
    plan = choose_plan(base, lora, work, cap, device)
    report({"event": "plan", **plan.to_json()})
    with hard_limit(plan.cap_bytes):
        model, planned = build_planned(base, lora, plan, device, seed=0)
        planned.report = report
        try:
            yield Scorer(model, planned, data, work.rows_per_step, base.pad_id)
        finally:
            model.close()


def _workload(recipe: Recipe, data: Sequence[PreparedData]) -> Workload:
    """One for all texts: the longest rows may be those of one, and the most rows those of another."""
    each = [workload(recipe, one, 1, 1) for one in data]
    return replace(
        max(each, key=lambda work: work.row_tokens),
        rows_per_step=max(work.rows_per_step for work in each),
        tokens=sum(work.tokens for work in each),
        row_lengths=len(np.unique(np.concatenate([one.train.padded_lengths for one in data]))),
        forward_only=True,
    )


def score_factors(
    base_name: str,
    quantization: str,
    ranks: Mapping[str, int],
    adapters: Iterable[Factors],
    text_paths: Sequence[Path],
    cap: int,
    report: Reporter,
) -> list[float]:
    """Loss of each adapter on the text; they come one after the other and need not exist at once. {} is the base."""
    recipe = base_recipe(base_name, quantization)
    losses = []
    with open_scorer(recipe, ranks, {"text": text_paths}, cap, report) as scorer:
        for number, adapter in enumerate(adapters):
            report({"event": "progress", "task": "scoring", "done": number, "total": None, "unit": "adapters"})
            scorer.load(adapter)
            losses.append(scorer.loss("text"))
    return losses


def base_recipe(
    name: str, quantization: str | None, artifact_sha256: str | None = None, revision: str | None = None
) -> Recipe:
    """A recipe for a base by what `pocketft.json` says of it; a GGUF's own values are what `auto` takes."""
    known = quantization if quantization in ("bf16", "int8", "nf4") else None
    found = find_recorded(name, artifact_sha256, revision)
    return load_recipe(None, flags={"model.name": found, "model.quantization": known})


def factors(config: PeftConfig, state: Mapping[str, Tensor]) -> dict[str, tuple[Tensor, Tensor]]:
    """An adapter's factors with alpha, rank, their patterns and rsLoRA folded in, as PEFT reads its configuration.

    Raises AdapterError for what is no plain LoRA.
    """
    if not isinstance(config, LoraConfig) or config.use_dora or config.bias != "none":
        raise AdapterError("only plain LoRA adapters can be scored: no DoRA, no biases")
    modules = {name.removesuffix(".lora_A.weight") for name in state if name.endswith(".lora_A.weight")}
    unknown = [name for name in state if name.rpartition(".lora_")[0] not in modules]
    if unknown or not modules:
        raise AdapterError(f"only plain LoRA adapters can be scored, and {(unknown or ['this one'])[0]:.80} is none")
    patterns = config.alpha_pattern or {}
    result = {}
    for module in sorted(modules):
        a, b = state[f"{module}.lora_A.weight"], state.get(f"{module}.lora_B.weight")
        if b is None or a.shape[0] != b.shape[1]:
            raise AdapterError(f"the adapter's {module:.80} lacks its B or has two different ranks; it is damaged")
        name = module.removeprefix(_PREFIX)
        alpha = patterns.get(get_pattern_key(list(patterns), name), config.lora_alpha)
        scaling = alpha / (a.shape[0] ** 0.5 if config.use_rslora else a.shape[0])
        result[name] = (a, b.float() * scaling)
    return result
