"""The README.md of an adapter folder: what it is and how to load it, with no path and no text of the person's."""

from __future__ import annotations

import json
from pathlib import PurePath

from pocketft.adapters.state import AdapterInfo


def model_card(info: AdapterInfo) -> str:
    """A model card in the hub's format, from the adapter's own record."""
    base = public_base_name(info)
    header = ["---", "library_name: peft", "tags: [lora, pocketft]"]
    if base:
        header.append(f"base_model: {json.dumps(base, ensure_ascii=False)}")
    header.append("---")
    parents = info.provenance.get("parents") or []
    lines = [
        *header,
        "",
        f"# LoRA adapter{f' for {base}' if base else ''}",
        "",
        f"Rank {info.max_rank}, {len(info.modules)} modules, {info.parameters:,} parameters.",
    ]
    merge = info.provenance.get("merge")
    if isinstance(merge, dict) and parents:
        lines += [
            "",
            f"Merged with pocketft from {len(parents)} adapter{'s' if len(parents) != 1 else ''} "
            f"by the method `{merge.get('method')}`; `pocketft.json` records their hashes and weights.",
        ]
    quantization = info.base.quantization
    if quantization:
        lines += ["", f"The base was quantized as `{quantization}` when the adapter was made."]
    if info.base.licence:
        lines += ["", f"Licence of the base model: {info.base.licence}. What is built on it must keep to that licence."]
    lines += [
        "",
        "```python",
        "from peft import PeftModel",
        "from transformers import AutoModelForCausalLM",
        "",
        f"base = AutoModelForCausalLM.from_pretrained({json.dumps(base or 'the base model', ensure_ascii=False)})",
        'model = PeftModel.from_pretrained(base, "this folder")',
        "```",
        "",
    ]
    return "\n".join(lines)


def public_base_name(info: AdapterInfo) -> str | None:
    """The base's name without the folders of whoever made the adapter: a hub name stays, a path keeps its last part."""
    name = info.base.name
    if not name:
        return None
    is_path = PurePath(name).is_absolute() or name.startswith((".", "~")) or "\\" in name or name.count("/") > 1
    return name.replace("\\", "/").rstrip("/").rsplit("/", 1)[-1] if is_path else name
