"""An adapter_config.json, read without PEFT and without trusting it: ranks, alphas, and whether it is a plain LoRA at
all.

PEFT itself takes seconds to import and fills unknown keys with silence. Here a key that this file does not know, set
to anything but nothing, is a reason to refuse: it may change what the tensors mean. The meaning of the known ones
follows PEFT's own.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from pocketft.errors import AdapterError

MAX_RANK = 4096
MAX_ALPHA = 1e6

# Keys that do not change what A and B mean once training is over.
_NEUTRAL = {
    "alpha_pattern", "auto_mapping", "base_model_name_or_path", "bias", "corda_config", "ensure_weight_tying",
    "eva_config", "exclude_modules", "fan_in_fan_out", "inference_mode", "init_lora_weights", "layers_pattern",
    "layers_to_transform", "loftq_config", "lora_alpha", "lora_dropout", "lora_ga_config", "megatron_config",
    "megatron_core", "modules_to_save", "modules_to_tie", "peft_type", "peft_version", "qalora_group_size", "r",
    "rank_pattern", "revision", "runtime_config", "target_modules", "target_modules_to_tie", "task_type",
    "use_rslora",
}  # fmt: skip

# What the refused ones do, for those a person is likely to meet.
_VARIANTS = {
    "use_dora": "DoRA also rescales the rows of the base weight, which no sum of B·A expresses",
    "use_qalora": "QA-LoRA pools the input before A",
    "alora_invocation_tokens": "aLoRA is active only after certain tokens",
    "lora_bias": "lora_bias adds a bias to B",
    "layer_replication": "layer replication adds layers that the base does not have",
    "trainable_token_indices": "single rows of the embedding were trained beside the LoRA",
    "target_parameters": "parameters that are not modules were adapted",
    "kasa_config": "KaSA changes the base weight and puts a diagonal between A and B",
    "velora_config": "VeLoRA changes the backward pass",
    "use_bdlora": "BD-LoRA has block-diagonal factors",
    "arrow_config": "Arrow routes between adapters",
    "monteclora_config": "MonteCLoRA samples its factors",
}

# Initialisations that leave the base as it was. The others (PiSSA, OLoRA, CorDA, LoftQ, LoRA-GA) subtract something
# from the base weight, so their B·A is an update of another base than the one that is named.
_HARMLESS_INITS = ("gaussian", "eva", "orthogonal")


@dataclass(frozen=True)
class LoraSettings:
    """Rank and scaling by module name, with patterns and rsLoRA folded as PEFT folds them."""

    r: int
    alpha: float
    use_rslora: bool
    rank_patterns: tuple[tuple[re.Pattern[str], int], ...]
    alpha_patterns: tuple[tuple[re.Pattern[str], float], ...]

    def rank(self, module: str) -> int:
        return next((rank for pattern, rank in self.rank_patterns if pattern.match(module)), self.r)

    def alpha_of(self, module: str) -> float:
        return next((alpha for pattern, alpha in self.alpha_patterns if pattern.match(module)), self.alpha)

    def scaling(self, module: str) -> float:
        rank = self.rank(module)
        return self.alpha_of(module) / (math.sqrt(rank) if self.use_rslora else rank)


def read_settings(config: Mapping[str, Any], where: str) -> LoraSettings:
    """Raises AdapterError for ranks and alphas that are no sane numbers and for patterns unsafe to evaluate."""
    return LoraSettings(
        r=_rank(config.get("r", 8), where),
        alpha=_alpha(config.get("lora_alpha", 8), where),
        use_rslora=config.get("use_rslora") is True,
        rank_patterns=_patterns(config, "rank_pattern", where, _rank),
        alpha_patterns=_patterns(config, "alpha_pattern", where, _alpha),
    )


def variant_problems(config: Mapping[str, Any]) -> list[str]:
    """Why this is not a plain LoRA on an untouched base; empty when it is."""
    if config.get("peft_type") != "LORA":
        return [f"its kind is {str(config.get('peft_type'))[:40]}, not LORA"]
    problems = []
    for key, value in config.items():
        if key in _NEUTRAL or value is None or value is False or value in ({}, [], ""):
            continue
        reason = _VARIANTS.get(key, "pocketft does not know that setting, and it may change what the tensors mean")
        problems.append(f"{str(key)[:60]} is set: {reason}")
    init = config.get("init_lora_weights", True)
    if not isinstance(init, bool) and init is not None and init not in _HARMLESS_INITS:
        problems.append(
            f"init_lora_weights is {str(init)[:40]!r}, which changes the base weight; save it as a plain LoRA with "
            "PEFT's path_initial_model_for_weight_conversion"
        )
    return problems


def _rank(value: Any, where: str) -> int:
    if type(value) is not int or not 1 <= value <= MAX_RANK:
        raise AdapterError(f"{where}: the rank {str(value)[:40]!r} is not a whole number from 1 to {MAX_RANK}")
    return value


def _alpha(value: Any, where: str) -> float:
    if type(value) not in (int, float) or not abs(value) <= MAX_ALPHA:
        raise AdapterError(f"{where}: lora_alpha {str(value)[:40]!r} is not a number up to {MAX_ALPHA:,.0f}")
    return float(value)


def _patterns(
    config: Mapping[str, Any], key: str, where: str, read: Callable[[Any, str], Any]
) -> tuple[tuple[re.Pattern[str], Any], ...]:
    table = config.get(key) or {}
    if not isinstance(table, Mapping):
        raise AdapterError(f"{where}: {key} is not a table of names and numbers")
    return tuple(
        (_compile(str(name), f"{where}: {key}"), read(value, f"{where}: {key}")) for name, value in table.items()
    )


def _compile(pattern: str, where: str) -> re.Pattern[str]:
    """PEFT matches these as regular expressions against the end of a name. A hostile one could run for ever, so
    repeated groups and long chains of repetitions are refused; names and simple patterns, which is what tools write,
    pass."""
    repetitions = len(re.findall(r"(?<!\\)[*+{]", pattern))
    if len(pattern) > 500 or repetitions > 2 or re.search(r"\)[*+{]", pattern):
        raise AdapterError(
            f"{where}: the pattern {pattern[:80]!r} is too involved to evaluate safely; write the names out"
        )
    try:
        return re.compile(rf"(.*\.)?({pattern})$")
    except re.error as error:
        raise AdapterError(f"{where}: {pattern[:80]!r} is no regular expression ({error})") from None
