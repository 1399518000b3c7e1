"""An adapter as llama.cpp loads it: one GGUF file with A and B of every layer under llama.cpp's names.

llama.cpp computes `alpha / rank · B A` with one alpha for the file, so a layer whose scaling is another one (rsLoRA,
rank and alpha patterns) carries the difference in its B.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from pocketft import __version__
from pocketft.adapters.card import public_base_name
from pocketft.adapters.export_names import GgufNames
from pocketft.adapters.state import AdapterInfo, AdapterState
from pocketft.errors import UsageError
from pocketft.files import atomic_path, require_space


def write_gguf_adapter(path: Path, adapter: AdapterState, names: GgufNames) -> None:
    """Write `adapter` in float32, one module at a time. Whole or not at all.

    Raises UsageError, before anything is written, for a layer that llama.cpp has no place for.
    """
    order = gguf_order(adapter.info, names)
    require_space(path, 4 * adapter.info.parameters)
    with atomic_path(path) as temporary:
        write_gguf_adapter_file(temporary, adapter, names, order)


def write_gguf_adapter_file(path: Path, adapter: AdapterState, names: GgufNames, order: dict[str, str]) -> None:
    """The same into `path` itself, a temporary name of somebody's. `order`: llama.cpp's name -> module."""
    import gguf
    import numpy as np

    info = adapter.info
    alpha = file_alpha(info)
    writer = gguf.GGUFWriter(path, names.architecture)
    try:
        writer.add_type(gguf.GGUFType.ADAPTER)
        writer.add_string(gguf.Keys.Adapter.TYPE, "lora")
        writer.add_float32(gguf.Keys.Adapter.LORA_ALPHA, alpha)
        _add_provenance(writer, info)
        float32 = np.dtype(np.float32)
        for tensor, module in order.items():
            described = info.modules[module]
            for side, shape in (
                ("a", (described.rank, described.in_features)),
                ("b", (described.out_features, described.rank)),
            ):
                writer.add_tensor_info(f"{tensor}.lora_{side}", shape, float32, 4 * shape[0] * shape[1])
        writer.write_header_to_file()
        writer.write_kv_data_to_file()
        writer.write_ti_data_to_file()
        for module in order.values():
            factors = adapter.factors(module)
            rows = names.row_order(module, len(factors.b))
            b = factors.b if rows is None else factors.b[rows]
            b = b * (factors.scaling * len(factors.a) / alpha)
            for values in (factors.a, b):
                writer.write_tensor_data(values.contiguous().numpy())
    finally:
        writer.close()


def gguf_order(info: AdapterInfo, names: GgufNames) -> dict[str, str]:
    """llama.cpp's tensors and the modules that they stand for, in the order of the file."""
    check_carried(info)
    return {names.tensor(module): module for module in info.modules}


def file_alpha(info: AdapterInfo) -> float:
    """The alpha that most layers have as it is; their B then stays as it was trained."""
    alphas = [module.scaling * module.rank for module in info.modules.values()]
    return max(set(alphas), key=lambda alpha: (alphas.count(alpha), alpha), default=1.0) or 1.0


def check_carried(info: AdapterInfo) -> None:
    if info.extras:
        raise UsageError(
            f"{info.label} also changes {min(info.extras):.100}, which a GGUF adapter cannot carry; "
            "no export of it is possible yet but --to peft"
        )


def _add_provenance(writer: Any, info: AdapterInfo) -> None:
    """Where it comes from, for whoever looks at the file: no path, no text of the person's."""
    base = public_base_name(info)
    writer.add_name(f"LoRA adapter{f' for {base}' if base else ''}")
    writer.add_string("pocketft.version", __version__)
    writer.add_string("pocketft.adapter.sha256", info.sha256)
    if base:
        writer.add_base_model_count(1)
        writer.add_base_model_name(0, base)
    for key, value in (
        ("sha256", info.base.artifact_sha256),
        ("revision", info.base.revision),
        ("quantization", info.base.quantization),
        ("license", info.base.licence),
    ):
        if value:
            writer.add_string(f"pocketft.base.{key}", value)
