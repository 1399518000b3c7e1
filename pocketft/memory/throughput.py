"""How long a step takes under a plan, from the machine's profile and the model's shape.

Counts what is done (products, dequantization, disk reads) and divides by measured rates. One constant, the share of
the peak rate that a whole step reaches, is fitted; the rest is arithmetic. Knows no memory.
"""

from __future__ import annotations

from dataclasses import dataclass

from pocketft.memory.profile import MachineProfile

# A step reaches this part of the rate of a bare product of 512 tokens, the rest being norms, rotary tables,
# activations and attention. Fitted on SmolLM2-135M and Gemma-3-270M at 512 tokens.
_REACHED = 0.62
_DISK_BYTES_PER_S = 0.8e9  # a plain SSD through pread; reads overlap with the arithmetic
_VISIT_S = 150e-6  # of a tile of the loss: a dozen operations


@dataclass(frozen=True)
class Work:
    """One optimizer step, in numbers: weights of all blocks, of those not dense, of those computed again, of the head;
    visits of the loss to a tile; bytes read."""

    tokens: int
    tile_visits: int
    block_weights: int
    shared_weights: int
    recomputed_weights: int
    head_weights: int
    streamed_bytes: int


def step_seconds(work: Work, profile: MachineProfile, dtype: str) -> float:
    """Forward and backward cost two operations a weight and token each (the base needs no weight gradient); recomputing
    two more.
    """
    flops = work.tokens * (4.0 * work.block_weights + 2.0 * work.recomputed_weights)
    flops += work.tokens * 4.0 * work.head_weights
    compute_s = flops / (profile.gflops(dtype) * 1e9 * _REACHED)
    dequantize_s = (2 * work.shared_weights + work.head_weights) * profile.dequantize_ns_per_weight * 1e-9
    visits_s = work.tile_visits * _VISIT_S
    read_s = 2 * work.streamed_bytes / _DISK_BYTES_PER_S
    return max(
        compute_s + dequantize_s + visits_s + 0.5 * read_s, read_s
    )  # copying what is read takes the processor too
