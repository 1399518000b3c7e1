"""What others report: to know where the bar is. None of it is measured here."""

from __future__ import annotations

KNOWN_ELSEWHERE: tuple[tuple[str, str, str], ...] = (
    ("MobileFineTuner, Qwen2.5-0.5B, LoRA", "2.9 GB", "its report"),
    ("Qwen3-1.7B, LoRA, phone GPU (Adreno 830)", "6.7 tokens/s", "published figure"),
    ("Qwen3-1.7B, LoRA, M3 Pro", "17.5 tokens/s", "published figure"),
    ("Llama-3.2-3B, T = 1024, exact loss, A100", "2.37 GB", "arXiv 2606.19528"),
    (
        "MeSP, Qwen2.5-0.5B",
        "136 MB of phys_footprint, which omits clean mapped pages",
        "arXiv 2602.13069",
    ),
)
