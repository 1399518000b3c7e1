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


@dataclass(frozen=True)
class Work:
    """One optimizer step: what is computed, weights that are dequantized, bytes that are read from disk."""

    cost: Cost
    dequantized_weights: float
    read_bytes: float


def step_seconds(work: Work, profile: MachineProfile, dtype: str) -> float:
    compute_s = work.cost.flops / (profile.gflops(dtype) * 1e9)
    compute_s += work.cost.moved_bytes / (profile.moved_gb_per_s * 1e9)
    compute_s += work.cost.operations * profile.operation_us * 1e-6 * _AROUND
    compute_s += work.dequantized_weights * profile.dequantize_ns_per_weight * 1e-9
    read_s = work.read_bytes / (profile.disk_gb_per_s * 1e9)
    copy_s = work.read_bytes / (profile.moved_gb_per_s * 1e9)  # reading waits beside the arithmetic, copying does not
    return max(compute_s + copy_s, read_s)
