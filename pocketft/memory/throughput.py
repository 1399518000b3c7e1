"""How long a step takes under a plan, from the machine's profile and what the step computes.

Counts what is done (products, bytes moved, operations, dequantization, disk reads) and divides by measured rates.
Knows no memory.
"""

from __future__ import annotations

from dataclasses import dataclass

from pocketft.memory.profile import MachineProfile
from pocketft.memory.tally import Cost

# Around each operation that is counted there are views, modules and autograd's own work. SmolLM2-135M, 512 tokens a
# row, one to four rows together: 40 microseconds an operation, where a bare one takes 13.
_AROUND = 3.0
# The loss has none of that, and its tiles stay in the cache. SmolLM2-135M and Gemma 3 270M, tiles of 64 to 512 tokens
# and 256 to 4096 words: 0.74 to 14 seconds a step, foretold to 15%.
_AROUND_IN_LOSS = 0.3
_MOVED_IN_LOSS = 0.5


@dataclass(frozen=True)
class Work:
    """One optimizer step: what blocks and loss compute, weights that are dequantized, bytes that are read from disk."""

    blocks: Cost
    loss: Cost
    dequantized_weights: float
    read_bytes: float


def step_seconds(work: Work, profile: MachineProfile, dtype: str) -> float:
    compute_s = (work.blocks.flops + work.loss.flops) / (profile.gflops(dtype) * 1e9)
    moved_bytes = work.blocks.moved_bytes + work.loss.moved_bytes * _MOVED_IN_LOSS
    compute_s += moved_bytes / (profile.moved_gb_per_s * 1e9)
    operations = work.blocks.operations * _AROUND + work.loss.operations * _AROUND_IN_LOSS
    compute_s += operations * profile.operation_us * 1e-6
    compute_s += work.dequantized_weights * profile.dequantize_ns_per_weight * 1e-9
    read_s = work.read_bytes / (profile.disk_gb_per_s * 1e9)
    copy_s = work.read_bytes / (profile.moved_gb_per_s * 1e9)  # reading waits beside the arithmetic, copying does not
    return max(compute_s + copy_s, read_s)
