"""A common start for devices that intend to merge: one LoRA initialisation, the same A for all, and the recipe to
train it by.

Adapters that begin with the same A stay closer to each other, so that averaging loses less of each. The folder is a
valid adapter that changes nothing yet (B is zero). Knows configurations and PEFT; no weight of the base is read or
allocated.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from pocketft import __version__
from pocketft.adapters.card import model_card
from pocketft.adapters.folder import CARD_FILE, RECIPE_FILE, FolderAdapter, read_adapter, write_adapter
from pocketft.adapters.state import AdapterInfo, BaseIdentity, Factors, MemoryAdapter, ModuleInfo, natural_order
from pocketft.errors import UsageError
from pocketft.models.catalog import catalog
from pocketft.models.location import HUB_PREFIX
from pocketft.recipe import Recipe

if TYPE_CHECKING:
    from peft import PeftModel
    from transformers import PretrainedConfig


def write_group(
    folder: Path, config: PretrainedConfig, base: BaseIdentity, recipe: Recipe, *, force: bool = False
) -> FolderAdapter:
    """Draw the initialisation that `recipe` describes for a model of `config`, and write it with the recipe.

    The values depend on the recipe's seed alone. Raises UsageError where its targets name no layer of the model.
    """
    model = _skeleton_with_lora(config, recipe)
    state = _state(model, base, recipe)
    extra_files = {CARD_FILE: model_card(state.info), RECIPE_FILE: _for_everyone(recipe, base).to_yaml()}
    write_adapter(folder, state, extra_files, force=force)
    return read_adapter(folder)


def _for_everyone(recipe: Recipe, base: BaseIdentity) -> Recipe:
    """The recipe without what belongs to one person or machine: a name, a column, a memory cap, a path."""
    name = recipe.model.name
    if name not in catalog() and not name.startswith(HUB_PREFIX):
        known = next((entry.name for entry in catalog().values() if entry.sha256 == base.artifact_sha256), base.name)
        name = Path(known or name).name
    return recipe.model_copy(
        update={
            "model": recipe.model.model_copy(update={"name": name}),
            "data": recipe.data.model_copy(update={"me": None, "column": None}),
            "lora": recipe.lora.model_copy(update={"init": None}),
            "memory": recipe.memory.model_copy(update={"max": None}),
        }
    )


def _skeleton_with_lora(config: PretrainedConfig, recipe: Recipe) -> PeftModel:
    """The model without weights, its LoRA factors alone allocated, initialised by PEFT."""
    from accelerate import init_empty_weights
    from peft import LoraConfig, get_peft_model
    from peft.tuners.lora import LoraLayer
    from transformers import AutoModelForCausalLM

    lora = recipe.lora
    settings = LoraConfig(
        r=lora.r,
        lora_alpha=lora.alpha,
        lora_dropout=lora.dropout,
        target_modules=lora.target_modules,
        use_rslora=lora.use_rslora,
        task_type="CAUSAL_LM",
    )
    with init_empty_weights():
        bare = AutoModelForCausalLM.from_config(config)
    try:
        model = get_peft_model(bare, settings)
    except ValueError as error:
        raise UsageError(f"lora.target_modules: {str(error)[:200]}") from None
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(recipe.training.seed)
        for module in model.modules():
            if isinstance(module, LoraLayer):
                module.lora_A.to_empty(device="cpu")
                module.lora_B.to_empty(device="cpu")
                module.reset_lora_parameters("default", init_lora_weights=True)
    return model


def _state(model: PeftModel, base: BaseIdentity, recipe: Recipe) -> MemoryAdapter:
    from peft import get_peft_model_state_dict
    from peft.tuners.lora import LoraLayer

    layers: Mapping[str, Any] = {
        name.removeprefix("base_model.model."): module
        for name, module in model.named_modules()
        if isinstance(module, LoraLayer)
    }
    tensors = get_peft_model_state_dict(model, save_embedding_layers=False)
    modules, factors = {}, {}
    digest = hashlib.sha256()
    for name in sorted(layers, key=natural_order):
        layer = layers[name]
        rank, alpha, scaling = layer.r["default"], layer.lora_alpha["default"], layer.scaling["default"]
        module = ModuleInfo(name, rank, float(alpha), scaling, layer.in_features, layer.out_features)
        a, b = (tensors[tensor_name].float() for tensor_name in module.tensor_names())
        modules[name], factors[name] = module, Factors(a, b, scaling)
        digest.update(a.contiguous().view(torch.uint8).numpy().data)
    info = AdapterInfo(
        label="group",
        kind="lora",
        base=base,
        modules=modules,
        config=_config(model, base),
        provenance=_provenance(base, recipe, digest.hexdigest()),
    )
    return MemoryAdapter(info, factors)


def _config(model: PeftModel, base: BaseIdentity) -> dict[str, Any]:
    """PEFT's own configuration, with sets in a fixed order and without what only this machine knows."""
    values = model.peft_config["default"].to_dict()
    plain = {key: sorted(value) if isinstance(value, set) else value for key, value in values.items()}
    plain.update(base_model_name_or_path=base.name, revision=base.revision, inference_mode=True, auto_mapping=None)
    for key in ("peft_type", "task_type"):
        plain[key] = getattr(plain[key], "value", plain[key])
    return plain


def _provenance(base: BaseIdentity, recipe: Recipe, a_sha256: str) -> dict[str, Any]:
    """`group` names the initialisation: adapters that grew from it can say so."""
    return {
        "format": 1,
        "kind": "lora",
        "base": {
            "name": base.name,
            "artifact_sha256": base.artifact_sha256,
            "revision": base.revision,
            "quantization": base.quantization,
            "architecture": base.architecture,
            "tokenizer_sha256": base.tokenizer_sha256,
            "licence": base.licence,
        },
        "tokens": 0,
        "examples": 0,
        "steps": 0,
        "seed": recipe.training.seed,
        "group": a_sha256,
        "metrics": {},
        "plan": None,
        "versions": {"pocketft": __version__, "torch": torch.__version__},
        "parents": [],
    }
