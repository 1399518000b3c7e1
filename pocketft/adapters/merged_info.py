"""What a merged adapter says of itself: its modules, its PEFT configuration, and its record of where it came from."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import torch

from pocketft import __version__
from pocketft.adapters.merge_report import MergeReport
from pocketft.adapters.state import AdapterInfo, BaseIdentity, ModuleInfo


def merged_module(infos: Sequence[AdapterInfo], name: str, rank: int) -> ModuleInfo:
    """One rank for every module and alpha equal to it: readers that know nothing of patterns then scale it right."""
    module = next(info.modules[name] for info in infos if name in info.modules)
    return replace(module, rank=rank, alpha=float(rank), scaling=1.0)


def merged_info(
    infos: Sequence[AdapterInfo], modules: Mapping[str, ModuleInfo], weights: Sequence[float], rank: int
) -> AdapterInfo:
    """What is known of the base is kept where the adapters do not contradict each other."""

    def agreed(field: str, default: str | None = None) -> str | None:
        values = {value for info in infos if (value := getattr(info.base, field))}
        return values.pop() if len(values) == 1 else default

    # Names may differ between devices where the files are the same; the one that counts most is as good as any.
    heaviest = infos[max(range(len(infos)), key=lambda index: weights[index])].base
    base = BaseIdentity(
        name=agreed("name", heaviest.name),
        revision=agreed("revision"),
        quantization=agreed("quantization"),
        artifact_sha256=agreed("artifact_sha256"),
        tokenizer_sha256=agreed("tokenizer_sha256"),
        architecture=agreed("architecture"),
        licence=agreed("licence"),
    )
    return AdapterInfo(
        label="merge",
        kind="lora",
        base=base,
        modules=modules,
        extras=infos[0].extras,
        config=_merged_config(infos, modules, base, rank),
    )


def _merged_config(
    infos: Sequence[AdapterInfo], modules: Mapping[str, ModuleInfo], base: BaseIdentity, rank: int
) -> dict[str, Any]:
    """What PEFT needs to load the merge. Targets are the adapters' own where they all agree, else the modules by
    full name.
    """
    first = infos[0].config
    targeting = ("target_modules", "exclude_modules", "layers_to_transform", "layers_pattern")

    def same(key: str) -> bool:
        first_value, *values = [_unordered(info.config.get(key)) for info in infos]
        return all(value == first_value for value in values)

    alike = all(same(key) for key in targeting) and all(len(info.modules) == len(modules) for info in infos)
    targets = {key: first.get(key) for key in targeting} if alike else {"target_modules": list(modules)}
    return {
        "peft_type": "LORA",
        "task_type": first.get("task_type"),
        "base_model_name_or_path": first.get("base_model_name_or_path") or base.name,
        "revision": base.revision,
        "inference_mode": True,
        "r": rank,
        "lora_alpha": rank,
        "lora_dropout": 0.0,
        "use_rslora": False,
        "bias": first.get("bias", "none"),
        "modules_to_save": first.get("modules_to_save"),
        "fan_in_fan_out": bool(first.get("fan_in_fan_out", False)),
        "init_lora_weights": True,
        "rank_pattern": {},
        "alpha_pattern": {},
        **targets,
    }


def _unordered(value: Any) -> Any:
    """PEFT keeps lists of names as sets, so their order in the file means nothing."""
    return sorted(value, key=str) if isinstance(value, list) else value


def merged_provenance(info: AdapterInfo, infos: Sequence[AdapterInfo], report: MergeReport) -> dict[str, Any]:
    """pocketft.json of the merge. Tokens are those of the adapters that took part, so a merge of merges weighs
    right.
    """
    believed = [parent.tokens for parent in report.parents if not parent.dropped]
    examples = [parent.provenance.get("examples") for parent in infos]
    base = info.base
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
        "tokens": sum(t for t in believed if t is not None) if None not in believed else None,
        "examples": sum(examples) if all(type(count) is int for count in examples) else None,
        "steps": None,
        "metrics": {},
        "plan": None,
        "versions": {"pocketft": __version__, "torch": torch.__version__},
        "parents": [parent.to_json() for parent in report.parents],
        "merge": {
            "method": report.method,
            "weights_by": report.weights_by,
            "robust": report.robust,
            "clip": report.clip,
            "rank": report.rank,
            "energy_kept": report.energy_kept,
            "cross_term_error": report.cross_term_error,
        },
    }
