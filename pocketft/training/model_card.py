"""The model card of an adapter: what it is, what it was made from, how to use it.

Knows the facts in `pocketft.json` only, so no path of this machine and none of the person's text can slip in.
"""

from __future__ import annotations

import math
from typing import Any


def model_card(info: dict[str, Any], rank: int, alpha: int) -> str:
    base, metrics = info["base"], info["metrics"]
    header = ["---", "library_name: peft", "tags:", "  - lora", "  - pocketft"]
    if "/" in base["name"]:  # a name that others can look up
        header.insert(1, f"base_model: {base['name']}")
    facts = [
        ("Base model", base["name"]),
        ("Base revision", base.get("revision")),
        ("Base licence", base.get("licence")),
        ("Base weights", base.get("quantization")),
        ("Base file, SHA-256", base.get("artifact_sha256")),
        ("LoRA rank / alpha", f"{rank} / {alpha}"),
        ("Optimizer steps", f"{info['steps']:,}"),
        ("Tokens trained on", f"{info['tokens']:,}"),
        ("Held-out loss, base", _loss(metrics.get("base_eval_loss"))),
        ("Held-out loss, adapter", _loss(metrics.get("eval_loss"))),
    ]
    table = ["| | |", "|---|---|", *(f"| {name} | {value} |" for name, value in facts if value)]
    return "\n".join(
        [
            *header,
            "---",
            "",
            f"# A LoRA adapter for {base['name']}",
            "",
            *table,
            "",
            "```python",
            "from peft import PeftModel",
            "",
            'model = PeftModel.from_pretrained(base_model, "path/to/this/folder")',
            "```",
            "",
            "The adapter was trained on somebody's own text and may repeat parts of it: share it as you would share",
            "that text. The licence of the base model applies to it.",
            "",
            "Trained with pocketft.",
            "",
        ]
    )


def _loss(value: float | None) -> str | None:
    return None if value is None else f"{value:.4f} (perplexity {math.exp(min(value, 80)):.2f})"
