"""What a row has to reach (must) and should reach (aim), by the row's name as it stands in the table.

A row without goals is only measured.
"""

from __future__ import annotations

GOALS: dict[str, tuple[str, str]] = {
    "tokens/s: default plan / TRL QLoRA": (">= 2.5", "3"),
    "tokens/s: default plan / PEFT bf16 + checkpointing": (">= 1.8", "2.2"),
    "tokens/s: --memory 4GB / PEFT bf16 without checkpointing": (">= 1.6", "2"),
    "peak: --memory 512MB / TRL QLoRA": ("<= 0.33", "0.25"),
    "SmolLM2-135M, S = 512": ("448 MB", "384 MB"),
    "Gemma-3-270M, S = 512": ("640 MB", "512 MB"),
    "Qwen2.5-0.5B shape, S = 256": ("640 MB", "512 MB"),
    "Qwen2.5-3B shape, S = 1024": ("1.25 GB", "1 GB"),
    "Llama-3.1-8B shape, S = 512": ("2 GB", "1.5 GB"),
    "tokens/s: streamed / packed under 4GB, none kept": (">= 0.9", "0.97"),
    "tokens/s: streamed / packed under 1GB, none kept": (">= 0.9", "0.97"),
    "tokens/s: streamed / packed under 4GB, all kept": (">= 0.9", "0.97"),
    "tokens/s: chosen plan under 4GB / best of the others": (">= 0.9", "0.97"),
    "tokens/s: chosen plan under 1GB / best of the others": (">= 0.9", "0.97"),
    "predicted / measured peak, lowest and highest": ("0.97-1.08", "0.97-1.04"),
    "measured peak within the cap": ("all", "all"),
    "seconds from command to first optimizer step, warm cache": ("< 12", ""),
}


def goals(row: str) -> tuple[str, str]:
    return GOALS.get(row, ("", ""))
