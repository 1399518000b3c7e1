"""What training and scoring both need before the first step: base, text, plan, and the model built by it.

Each function takes what the one before it gave. No weight is read before `build_planned`, so a plan costs none.
"""

from __future__ import annotations

import importlib
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from peft import LoraConfig
from transformers import PretrainedConfig

from pocketft.data.dataset import DataSettings, PreparedData, prepare_dataset
from pocketft.engine.model import EngineModel, build_model
from pocketft.errors import ModelError, UsageError
from pocketft.memory.allocator import keep_freed_memory, map_large_tensors, release_freed_memory
from pocketft.memory.guard import Guard, room_to_reserve
from pocketft.memory.meter import usual_cap_bytes
from pocketft.memory.plan import Plan, Workload
from pocketft.memory.planner import Choice, make_choice
from pocketft.memory.profile import machine_profile
from pocketft.models.base_model import BaseModel, load_config, resolve_base
from pocketft.models.location import cache_home
from pocketft.recipe import Recipe
from pocketft.training.events import Reporter
from pocketft.training.planned_model import PlannedModel

if TYPE_CHECKING:
    from pocketft.data.tokenizer import TextTokenizer

_OPTIMIZER_BYTES = {"adamw": 8, "adamw8bit": 3}  # a parameter; 8-bit states with their scales, small tensors in 32
_TOKENIZER_TIMES = 12.5  # of tokenizer.json, while it is read: 11.7 for one of 3.5 MB, 11.2 for one of 33 MB


@dataclass(frozen=True)
class Base:
    """A base model that is on disk and described, with none of its weights read."""

    model: BaseModel
    config: PretrainedConfig

    @property
    def public_name(self) -> str:
        """The name under which others know the base: of the catalog, of the hub, or a file's own; never a path."""
        name = self.model.name
        if name.startswith("hf:"):
            return "/".join(name.removeprefix("hf:").partition("@")[0].split("/")[:2])
        return Path(name).stem if name.endswith(".gguf") else Path(name).name

    @property
    def pad_id(self) -> int:
        """Padding carries no loss and is a document of its own, so any token serves where the model names none."""
        pad = self.config.pad_token_id
        return pad if isinstance(pad, int) and 0 <= pad < self.config.vocab_size else 0

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


def open_base(name: str, quantization: str, report: Reporter, cap_bytes: int | None = None) -> Base:
    """Prepared first where that is needed, in another process that takes no more than `cap_bytes`."""
    model = resolve_base(name, quantization, report, cap_bytes)
    return Base(model, load_config(model))


def prepare_text(
    paths: Sequence[Path], base: Base, settings: DataSettings, report: Reporter, cap_bytes: int | None = None
) -> PreparedData:
    return prepare_dataset(paths, base.model.config_dir, settings, cache_home() / "data", report, cap_bytes)


def open_tokenizer(base: Base, cap_bytes: int) -> TextTokenizer:
    """In this process: a large vocabulary takes as much memory as a small model, while it is read three times as much.
    Raises CapTooSmall before the cap is crossed, and MemoryCapError if it was all the same.
    """
    from pocketft.data.tokenizer import load_text_tokenizer

    guard, folder = Guard(cap_bytes), base.model.config_dir
    with suppress(OSError):  # told by who reads it
        file_bytes = (folder / "tokenizer.json").stat().st_size
        guard.require(int(_TOKENIZER_TIMES * file_bytes), "reading the tokenizer")
    tokenizer = load_text_tokenizer(folder)
    release_freed_memory()
    guard.is_tight(0)
    return tokenizer


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


def rows_per_step(recipe: Recipe) -> int:
    """Where the plan chooses the micro-batch it only groups these rows; the mathematics stays that of single rows."""
    micro_batch = recipe.training.micro_batch
    return recipe.training.gradient_accumulation * (1 if micro_batch == "auto" else micro_batch)


def cap_bytes(recipe: Recipe) -> int:
    return recipe.memory.max_bytes or usual_cap_bytes()


def workload(recipe: Recipe, data: PreparedData, steps: int, all_steps: int) -> Workload:
    """`steps` of `all_steps` are to be trained."""
    lengths = np.unique(np.concatenate([rows.padded_lengths for rows in (data.train, data.val)]))
    micro_batch = recipe.training.micro_batch
    return Workload(
        rows_per_step=min(rows_per_step(recipe), len(data.train)),
        row_tokens=int(lengths[-1]),
        tokens=data.train.tokens * recipe.training.epochs * steps // all_steps,
        micro_batch=None if micro_batch == "auto" else micro_batch,
        optimizer_bytes=_OPTIMIZER_BYTES[recipe.training.optimizer],
        row_lengths=len(lengths),
    )


def choose_plan(base: Base, lora: LoraConfig, work: Workload, cap: int, device: torch.device) -> Plan:
    """The fastest plan under the cap. Raises CapTooSmall where there is none."""
    return compare_plans(base, lora, work, cap, device).plan


def compare_plans(
    base: Base,
    lora: LoraConfig,
    work: Workload,
    cap: int,
    device: torch.device,
    among: Callable[[Plan], bool] | None = None,
) -> Choice:
    """The fastest plan under the cap, of those that `among` allows, and what it beat. Raises CapTooSmall where there is
    none.
    """
    _load_quantizer(base, work)
    profile = machine_profile(cache_home())
    dtype = {"cpu": profile.compute_dtype, "cuda": _cuda_dtype()}.get(device.type, "float32")
    with _engine_errors(base):
        return make_choice(base.config, base.model.store, lora, work, profile, cap, dtype, among, cache_home())


def _load_quantizer(base: Base, work: Workload) -> None:
    """bitsandbytes, where the run will use it: loaded now, it is counted with what is in memory already."""
    store = base.model.store
    kinds = {tensor.kind for name in store.block_names() for tensor in store.block_spec(name).tensors}
    if "nf4" in kinds or work.optimizer_bytes == _OPTIMIZER_BYTES["adamw8bit"]:
        with suppress(ImportError, RuntimeError):  # who needs it says so
            importlib.import_module("bitsandbytes")


def _cuda_dtype() -> str:
    return "bfloat16" if torch.cuda.is_available() and torch.cuda.is_bf16_supported() else "float32"


def earlier_plan(saved: dict[str, Any], recipe: Recipe, cap: int) -> Plan | None:
    """The plan of a run that is resumed, if it is to be kept: another one would add in another order, and the losses
    would differ in their last digits. None where the cap was changed, the plan does not fit what is free now, or it was
    written by another version.
    """
    if not saved.keys() >= set(Plan.__dataclass_fields__):
        return None
    if saved["cap_bytes"] != cap and (recipe.memory.max is not None or saved["predicted_peak_bytes"] > cap):
        return None
    return Plan.from_json(saved, cap)


def build_planned(
    base: Base, lora: LoraConfig, plan: Plan, device: torch.device, seed: int
) -> tuple[EngineModel, PlannedModel]:
    """Read the weights as the plan says."""
    if plan.tight_allocator:
        map_large_tensors()
    elif plan.has_room:
        keep_freed_memory()
    guard = Guard(plan.cap_bytes)
    with _engine_errors(base), room_to_reserve():
        model = build_model(
            base.config,
            base.model.store,
            lora=lora,
            residences=plan.residences,
            dtype=plan.dtype,
            device=device,
            seed=seed,
            stream_ends=plan.stream_ends,
        )
    guard.is_tight(0)  # weights are read without the system's limit
    return model, PlannedModel(model, plan, guard)


def find_device(name: str) -> torch.device:
    """`auto`: a GPU where torch can use one, else the processor."""
    if name == "auto":
        name = "cuda" if torch.cuda.is_available() else "mps" if torch.backends.mps.is_available() else "cpu"
    available = {"cpu": True, "cuda": torch.cuda.is_available(), "mps": torch.backends.mps.is_available()}
    if not available.get(name, False):
        raise UsageError(f"--device {name}: torch finds none here; use --device cpu, or see `pocketft doctor`")
    return torch.device(name)


@contextmanager
def _engine_errors(base: Base) -> Iterator[None]:
    """The engine's ValueError is the recipe's fault where it names adapter targets, else the model's."""
    try:
        yield
    except (ValueError, NotImplementedError) as error:
        reason = str(error).splitlines()[0]
        if "target" in reason.lower():
            raise UsageError(f"lora.target_modules: {reason}") from error
        raise ModelError(f"{base.public_name} cannot be trained: {reason}") from error
