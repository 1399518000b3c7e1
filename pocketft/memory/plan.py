"""What is to be trained, and how: the data that planner, guard, shrinking and training share.

Knows no model and computes nothing.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass, replace
from typing import Any

import torch

from pocketft.engine.loss import LossTiles
from pocketft.engine.residency import RESIDENCES, Residence
from pocketft.engine.step import Coming

_RISE = 1.5


@dataclass(frozen=True)
class Workload:
    """What is to be trained: `rows_per_step` rows of at most `row_tokens` tokens an optimizer step, `tokens` in all.
    Padded, rows have `row_lengths` different lengths.

    `micro_batch` is the number of rows computed together where the person fixed it. `optimizer_bytes` are per adapter
    number. `forward_only`: nothing is trained, the text is only scored or answered.
    """

    rows_per_step: int
    row_tokens: int
    tokens: int
    micro_batch: int | None
    optimizer_bytes: int
    row_lengths: int = 1
    forward_only: bool = False
    cache_bytes: int = 0  # keys and values of an answer

    @property
    def tokens_per_step(self) -> int:
        return self.rows_per_step * self.row_tokens


@dataclass(frozen=True)
class Rise:
    """What comes for a while, in bytes: a block's forward pass, and the graphs it leaves where they are kept; its
    backward pass on a graph, or with the forward pass once more; the loss.
    """

    forward: int
    kept: int
    backward: int
    again: int
    loss: int

    @property
    def workspace(self) -> int:
        return max(self.forward, self.again, self.loss)

    def beside(self, graphs_bytes: int) -> int:
        """The most that comes on top of all graphs that are kept. They are gone when blocks are computed again."""
        return max(self.backward, self.loss, self.workspace - graphs_bytes)

    def until_next_look(self, coming: Coming) -> int:
        """The most that memory should grow until the guard looks again."""
        if coming == "graph":
            return self.forward + self.kept
        return max(self.backward, self.loss) if coming == "on graphs" else self.workspace

    def at_worst(self, coming: Coming = "block") -> int:
        """The same with what kernels take for themselves while they run, which is not among the tensors counted."""
        return int(_RISE * self.forward) + self.kept if coming == "graph" else int(_RISE * self.until_next_look(coming))


@dataclass(frozen=True)
class Plan:
    """How to train, and what that is predicted to cost."""

    micro_batch: int
    residences: tuple[Residence, ...]
    kept_blocks: int
    keep_attention: bool  # with its graph, a block keeps the probabilities of its attention
    loss_tiles: LossTiles
    compute_dtype: str
    components: dict[str, int]
    tight_allocator: bool
    spill_inputs: bool
    stream_ends: bool  # rows of the embedding and the head are read from disk when they are used
    rise: Rise
    cap_bytes: int
    tokens_per_s: float
    total_s: float

    @property
    def predicted_peak_bytes(self) -> int:
        return sum(self.components.values())

    @property
    def worst_peak_bytes(self) -> int:
        """With as much for kernels as the guard reckons with."""
        workspace = self.components["workspace"]
        return self.predicted_peak_bytes - workspace + int(_RISE * workspace)

    @property
    def has_room(self) -> bool:
        """Whether the guard will find room for the next rise even where freed memory is kept for later use."""
        return self.predicted_peak_bytes + self.rise.at_worst() <= self.cap_bytes

    @property
    def held_bytes(self) -> int:
        """What gathers in the course of a step and is gone at its end."""
        return sum(self.components[name] for name in ("block_inputs", "call_arguments", "kept_graphs"))

    @property
    def dtype(self) -> torch.dtype:
        return torch.bfloat16 if self.compute_dtype == "bfloat16" else torch.float32

    @property
    def choice(self) -> str:
        kinds = {kind: self.residences.count(kind) for kind in RESIDENCES}
        weights = ", ".join(f"{count} {kind}" for kind, count in kinds.items() if count)
        again = len(self.residences) - self.kept_blocks
        attention = ", attention kept" if self.keep_attention else ""
        allocator = "; memory given back at once" if self.tight_allocator else ""
        allocator += "; inputs of blocks in a file" if self.spill_inputs else ""
        allocator += "; embedding and head read as needed" if self.stream_ends else ""
        return (
            f"{weights} blocks; {again} computed again for the gradient{attention}; "
            f"micro-batch {self.micro_batch}; {self.compute_dtype}{allocator}"
        )

    def to_json(self) -> dict[str, Any]:
        return {
            **asdict(replace(self, residences=())),
            "residences": {kind: self.residences.count(kind) for kind in RESIDENCES},
            "predicted_peak_bytes": self.predicted_peak_bytes,
            "choice": self.choice,
        }

    @classmethod
    def from_json(cls, saved: dict[str, Any], cap_bytes: int) -> Plan:
        """The plan that `to_json` wrote, under a cap of its own."""
        counts = saved["residences"]
        given = {name: saved[name] for name in cls.__dataclass_fields__}
        residences = tuple(kind for kind in RESIDENCES for _ in range(counts[kind]))
        tiles, rise = LossTiles(**saved["loss_tiles"]), Rise(**saved["rise"])
        given.update(residences=residences, loss_tiles=tiles, rise=rise, cap_bytes=cap_bytes)
        return cls(**given)
