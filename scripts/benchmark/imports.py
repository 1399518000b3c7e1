"""What importing the libraries costs in memory when nobody takes care: the floor below every training process."""

from __future__ import annotations

import subprocess

from benchmark.places import environment, our_python

_PLAIN = """
import torch
from accelerate import init_empty_weights
from peft import LoraConfig, get_peft_model
from transformers import AutoModelForCausalLM, LlamaConfig
import bitsandbytes
with init_empty_weights():
    model = AutoModelForCausalLM.from_config(LlamaConfig(num_hidden_layers=1, vocab_size=256))
    get_peft_model(model, LoraConfig(target_modules="all-linear", task_type="CAUSAL_LM"))
from pocketft.memory.allocator import release_code, release_freed_memory
from pocketft.memory.meter import rss_bytes
print(rss_bytes())
release_freed_memory()
release_code()
print(rss_bytes())
"""


def plain_imports_bytes() -> tuple[int, int]:
    """Resident memory with torch, transformers, PEFT and bitsandbytes imported the usual way and a model described; and
    what is left when pages that importing has touched are given back, as pocketft does.
    """
    asked = subprocess.run([our_python(), "-c", _PLAIN], check=True, capture_output=True, text=True, env=environment())
    as_they_come, given_back = asked.stdout.split()[-2:]
    return int(as_they_come), int(given_back)
