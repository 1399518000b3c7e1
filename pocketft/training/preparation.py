"""What training and scoring both need before the first step: base, data, plan, and the model built by it.

Each function takes what the one before it gave. Nothing here reads a weight before `build`, so a plan costs none.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from peft import LoraConfig
from transformers import PretrainedConfig

from pocketft.data.dataset import DataSettings, PreparedData, prepare_dataset
from pocketft.engine.model import EngineModel, build_model
from pocketft.errors import UsageError
from pocketft.memory.guard import Guard
from pocketft.memory.meter import available_bytes
from pocketft.memory.planner import Plan, make_plan
from pocketft.models.base_model import BaseModel, load_config, resolve_base
from pocketft.recipe import Recipe
from pocketft.training.events import Reporter
from pocketft.training.planned_model import PlannedModel

_SHARE_OF_FREE = 0.6  # of what is available now, where no cap is given: the person goes on using the machine


@dataclass(frozen=True)
class Base:
    """A base model that is on disk and described, with none of its weights read."""

    model: BaseModel
    config: PretrainedConfig

    @property
    def public_name(self) -> str:
        """The name under which others know the base: a catalog name, a hub id or a file's own name, never a path."""
        name = self.model.name.removeprefix("hf:")
        is_path = Path(name).expanduser().exists() or Path(name).is_absolute() or name.startswith((".", "~"))
        return Path(name).stem if is_path or name.endswith(".gguf") else name

    def to_json(self) -> dict[str, Any]:
        model = self.model
        return {
            "name": self.public_name,
            "artifact_sha256": model.artifact_sha256,
            "revision": model.revision,
            "quantization": model.quantization,
            "architecture": model.architecture,
            "tokenizer_sha256": model.tokenizer_sha256,
            "licence": model.licence,
        }

    @property
    def pad_id(self) -> int:
        pad = self.config.pad_token_id
        return 0 if pad is None else int(pad)


def open_base(recipe: Recipe, report: Reporter) -> Base:
    model = resolve_base(recipe.model.name, recipe.model.quantization, report)
    return Base(model, load_config(model))


def lora_config(recipe: Recipe) -> LoraConfig:
    lora = recipe.lora
    return LoraConfig(
        r=lora.r,
        lora_alpha=lora.alpha,
        lora_dropout=lora.dropout,
        target_modules=lora.target_modules,
        use_rslora=lora.use_rslora,
        task_type="CAUSAL_LM",
    )
