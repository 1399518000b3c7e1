"""Every plan worth considering for a workload, each with its predicted peak and speed.

    predicted peak = what is in memory already (imports) + what kernels add when first used
                     + weights where they live + adapter, gradients and optimizer
                     + inputs of all blocks and call arguments + graphs that are kept
                     + the larger of a block's and the loss's workspace + what the allocator keeps

Knows sizes and rates (`footprint.py`, `throughput.py`); reads no weight and no text.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from peft import LoraConfig
from transformers import PretrainedConfig

from pocketft.engine.loss import LossTiles
from pocketft.engine.residency import Residence
from pocketft.engine.skeleton import empty_model
from pocketft.engine.weights import WeightSource
from pocketft.memory.allocator import release_code, release_freed_memory
from pocketft.memory.costs import Question, costs
from pocketft.memory.footprint import Footprint
from pocketft.memory.meter import rss_bytes
from pocketft.memory.plan import Plan, Rise, Workload
from pocketft.memory.profile import MachineProfile
from pocketft.memory.tally import Cost
from pocketft.memory.throughput import Work, step_seconds

# What comes when kernels are first used: code that runs for the first time, stacks of threads, scratch of the
# dequantization. In bfloat16 oneDNN compiles a kernel for each kind of product of each length of rows, and keeps as
# many as it is told to (`cli/environment.py`). Measured, of SmolLM2-135M, Gemma 3 270M and three larger shapes in rows
# of 256 to 2048 tokens: 77 MB with 34 kinds, 80 with 40, 90 with 52, 102 with 76, 128 with rows of 20 lengths. In
# float32 MKL has kernels of its own, and keeps buffers: 2 MB for the matrices of SmolLM2-135M, 86 for those of an 8B.
# Scoring takes half of it all, but for these buffers.
_FIRST_USE_BYTES = 58 << 20
_KERNEL_BYTES = 560 << 10
_KERNELS_KEPT = 128
_MKL_BYTES = 22 << 20
_MKL_BUFFERS = 0.1  # of the largest block's matrices
CAN_SPILL = hasattr(os, "preadv")
TILES = (LossTiles(4096, 512), LossTiles(2048, 256), LossTiles(1024, 128), LossTiles(256, 64))

_TIGHT_SLOWER = 1.1
_SPILL_S_PER_BYTE = 2.5e-9  # written to the page cache and read back
_TOGETHER_TOKENS = 4096  # more rows than this together gain nothing: the fixed cost of operations is gone by then
_SHARES = 8  # kept graphs and mixed residences are tried in eighths of the blocks
_OPTIMIZER_BYTES_MOVED = 28  # of one number: gradient, parameter and two moments read, three written, fp32


@dataclass(frozen=True)
class Habits:
    """What a plan does with memory besides its weights and graphs."""

    keep_attention: bool = False
    tight: bool = False
    spill: bool = False
    stream_ends: bool = False


# what costs most comes last; attention is kept where nothing is spared
_HABITS = [
    Habits(keep_attention=True),
    *(
        Habits(False, tight, spill, ends)
        for ends in (False, True)
        for tight in (False, True)
        for spill in (((False, True) if not ends else (True,)) if CAN_SPILL else (False,))
    ),
]


@dataclass(frozen=True)
class Mix:
    """Where the blocks' weights live, and what that costs."""

    residences: tuple[Residence, ...]
    weight_bytes: int
    shared_weights: int
    streamed_bytes: int


class Candidates:
    """Sizes that all plans of a workload share, computed once. `folder` remembers what is measured of a model."""

    def __init__(
        self,
        config: PretrainedConfig,
        source: WeightSource,
        lora: LoraConfig,
        workload: Workload,
        profile: MachineProfile,
        dtype: str,
        folder: Path | None = None,
    ) -> None:
        self.config, self.source, self.lora = config, source, lora
        self.workload, self.profile, self.dtype, self.folder = workload, profile, dtype, folder
        self._hidden_size, self._vocab_size = config.hidden_size, config.vocab_size  # asked for 100,000 times
        self.itemsize = self._torch_dtype.itemsize
        self._habits = [habits for habits in _HABITS if not (workload.forward_only and habits.keep_attention)]
        names = [name for name in source.block_names() if name.startswith("block.")]
        specs = [source.block_spec(name) for name in names]
        self._packed = [spec.nbytes for spec in specs]
        self._weights = [sum(t.numel for t in spec.tensors if len(t.shape) == 2) for spec in specs]
        self._dense = [weights * self.itemsize for weights in self._weights]
        ends = [source.block_spec(name).nbytes for name in ("embedding", "head") if name in source.block_names()]
        self._ends_bytes, self._head_bytes = sum(ends), ends[-1]
        self._mixes = [self._mix(residences) for residences in _residence_mixes(len(specs))]
        empty_model(config, self._torch_dtype)  # its code is in memory later, and counts as what it is
        found = costs(self._question, folder)
        self._footprints = {(micro_batch, keep): footprint for micro_batch, keep, footprint in found.footprints}
        self._loss_visits = dict(found.loss)
        release_freed_memory()  # of whatever this process did before
        release_code()
        self.imports_bytes = rss_bytes()

    @property
    def micro_batches(self) -> list[int]:
        """What the person asked for; else one row, and more as long as that pays."""
        workload = self.workload
        if workload.micro_batch is not None:
            return [workload.micro_batch]
        sizes = [1]
        while sizes[-1] < workload.rows_per_step and 2 * sizes[-1] * workload.row_tokens <= _TOGETHER_TOKENS:
            sizes.append(min(2 * sizes[-1], workload.rows_per_step))
        return sizes

    def plans(self, cap_bytes: int) -> Iterator[Plan]:
        """All of them, whether they fit or not, the fullest first."""
        for micro_batch in reversed(self.micro_batches):
            for kept in self._kept_choices:
                for tiles in TILES:
                    for mix in self._mixes:
                        for habits in self._habits:
                            yield self._plan(micro_batch, mix, kept, tiles, habits, cap_bytes)

    def first_use_bytes(self, micro_batch: int) -> int:
        """Of micro-batches of so many rows."""
        kernels = self._footprints[micro_batch, False].kernels * self.workload.row_lengths
        is_float32 = self.dtype == "float32"
        library = _MKL_BYTES if is_float32 else min(kernels, _KERNELS_KEPT) * _KERNEL_BYTES
        buffers = int(_MKL_BUFFERS * max(self._dense)) if is_float32 else 0
        return (_FIRST_USE_BYTES + library) // (2 if self.workload.forward_only else 1) + buffers

    @property
    def _torch_dtype(self) -> torch.dtype:
        return torch.bfloat16 if self.dtype == "bfloat16" else torch.float32

    @property
    def _kept_choices(self) -> list[int]:
        blocks = len(self._packed)
        if self.workload.forward_only:
            return [0]
        return sorted({blocks * share // _SHARES for share in range(_SHARES + 1)}, reverse=True)

    @property
    def _step_hidden_bytes(self) -> int:
        """Hidden states of all tokens of a step, once."""
        return self.workload.tokens_per_step * self._hidden_size * self.itemsize

    @property
    def _question(self) -> Question:
        keeps, length = sorted({habits.keep_attention for habits in self._habits}), self.workload.row_tokens
        return Question(
            self.config, self.source, self.lora, length, self.micro_batches, keeps, TILES, self._torch_dtype
        )

    def _plan(
        self,
        micro_batch: int,
        mix: Mix,
        kept: int,
        tiles: LossTiles,
        habits: Habits,
        cap_bytes: int,
    ) -> Plan:
        footprint, forward_only = self._footprints[micro_batch, habits.keep_attention], self.workload.forward_only
        micro_batches = -(-self.workload.rows_per_step // micro_batch)
        kept_bytes = micro_batches * footprint.kept_bytes if kept else 0
        rise = Rise(
            forward=footprint.forward_bytes,
            kept=kept_bytes,
            backward=0 if forward_only else footprint.backward_bytes,
            again=0 if forward_only else footprint.again_bytes,
            loss=self._loss_bytes(tiles),
        )
        # gradients and optimizer beside the parameters; without training, the copy that is loaded from
        per_number = 8 if forward_only else 8 + self.workload.optimizer_bytes
        graphs_bytes = kept * kept_bytes
        components = {
            "imports": self.imports_bytes,
            "first_use": self.first_use_bytes(micro_batch),
            "weights": self._ends_in_memory(habits.stream_ends, micro_batch, tiles) + mix.weight_bytes,
            "adapter": footprint.adapter_numbers * per_number,
            "block_inputs": self._held_inputs(kept, habits) * self._step_hidden_bytes,
            "call_arguments": micro_batches * footprint.arguments_bytes,
            "kept_graphs": graphs_bytes,
            "workspace": rise.beside(graphs_bytes),
            "cache": self.workload.cache_bytes,
        }
        components["allocator"] = _gap_bytes(components, habits, rise, some_recomputed=kept < len(mix.residences))
        seconds = step_seconds(self._work(footprint, micro_batches, mix, kept, tiles), self.profile, self.dtype)
        if habits.tight:
            seconds *= _TIGHT_SLOWER
        if habits.spill:
            seconds += len(mix.residences) * self._step_hidden_bytes * _SPILL_S_PER_BYTE
        if habits.stream_ends:  # once a step, while nothing else is done
            seconds += self._head_bytes / (self.profile.disk_gb_per_s * 1e9)
        tokens_per_s = self.workload.tokens_per_step / seconds
        return Plan(
            micro_batch=micro_batch,
            residences=mix.residences,
            kept_blocks=kept,
            keep_attention=habits.keep_attention,
            loss_tiles=tiles,
            compute_dtype=self.dtype,
            components=components,
            tight_allocator=habits.tight,
            spill_inputs=habits.spill,
            stream_ends=habits.stream_ends,
            rise=rise,
            cap_bytes=cap_bytes,
            tokens_per_s=tokens_per_s,
            total_s=self.workload.tokens / tokens_per_s,
        )

    def _work(self, footprint: Footprint, micro_batches: int, mix: Mix, kept: int, tiles: LossTiles) -> Work:
        """Of one optimizer step. Forward and backward bind each shared block once."""
        head = self._vocab_size * self._hidden_size
        if self.workload.forward_only:
            return Work(footprint.forward * micro_batches, Cost(), mix.shared_weights + head, mix.streamed_bytes)
        again = 1.0 - kept / len(mix.residences)
        cost = (footprint.forward + footprint.backward + footprint.recompute * again) * micro_batches
        cost += Cost(moved_bytes=footprint.adapter_numbers * _OPTIMIZER_BYTES_MOVED)
        return Work(cost, self._loss_cost(tiles), 2 * mix.shared_weights + head, 2 * mix.streamed_bytes)

    def _held_inputs(self, kept: int, habits: Habits) -> int:
        """How many blocks' inputs, the last one's output among them, are in memory: all, or where the others are in a
        file, those of graphs and the two that are worked on.
        """
        all_of_them = len(self._packed) + 1
        return min(kept + 2, all_of_them) if habits.spill or self.workload.forward_only else all_of_them

    def _ends_in_memory(self, streamed: bool, micro_batch: int, tiles: LossTiles) -> int:
        """All rows of embedding and head, or those that are looked at together."""
        if not streamed:
            return self._ends_bytes
        rows = tiles.vocab_rows + max(tiles.tokens, micro_batch * self.workload.row_tokens)
        return rows * self._head_bytes // self._vocab_size

    def _loss_cost(self, tiles: LossTiles) -> Cost:
        tokens = self.workload.tokens_per_step
        visits = tokens / tiles.tokens * self._vocab_size / tiles.vocab_rows
        return self._loss_visits[tiles] * visits

    def _loss_bytes(self, tiles: LossTiles) -> int:
        """Normed states, their loss rows twice, and gradients; the running sums in fp32; one tile."""
        hidden = 5 * self._step_hidden_bytes
        running = self.workload.tokens_per_step * self._hidden_size * 4
        return hidden + running + tile_bytes(tiles, self._hidden_size, self.itemsize)

    def _mix(self, residences: tuple[Residence, ...]) -> Mix:
        shared = [w for kind, w in zip(residences, self._weights, strict=True) if kind != "dense"]
        streamed = [p for kind, p in zip(residences, self._packed, strict=True) if kind == "streamed"]
        return Mix(residences, weight_bytes(residences, self._dense, self._packed), sum(shared), sum(streamed))


def weight_bytes(residences: Sequence[Residence], dense: Sequence[int], packed: Sequence[int]) -> int:
    """What the weights of all blocks take, the scratch and the buffer that they share included."""
    total, scratch, buffer = 0, 0, 0
    for kind, dense_bytes, packed_bytes in zip(residences, dense, packed, strict=True):
        if kind == "dense":
            total += dense_bytes
            continue
        scratch = max(scratch, dense_bytes)
        if kind == "packed":
            total += packed_bytes
        else:
            buffer = max(buffer, packed_bytes)
    return total + scratch + buffer


def tile_bytes(tiles: LossTiles, hidden_size: int, itemsize: int) -> int:
    """Logits and their fp32 copy, and the rows of the head."""
    return tiles.tokens * tiles.vocab_rows * (itemsize + 4) + tiles.vocab_rows * hidden_size * (itemsize + 4)


def _gap_bytes(components: dict[str, int], habits: Habits, rise: Rise, some_recomputed: bool) -> int:
    """Freed memory that the allocator keeps (`allocator.py`), by what is allocated and freed again and again. Blocks
    that are computed again find room in the gaps that graphs leave, as far as these reach; where all graphs are kept,
    nothing does, but for the attention's probabilities: the largest of what would be freed at once.
    """
    churn, kept = rise.workspace, components["kept_graphs"]
    inputs = components["block_inputs"] + components["call_arguments"]
    if habits.tight:  # large tensors are mapped one by one, and leave no gaps
        return int(0.05 * kept)
    without_room = 0.35 * max(0, churn - kept)
    if habits.keep_attention:
        return int(without_room + 0.2 * inputs + 0.08 * kept)
    return int(without_room + 0.7 * churn + 0.2 * inputs + (0.07 if some_recomputed else 0.14) * kept)


def _residence_mixes(blocks: int) -> Iterator[tuple[Residence, ...]]:
    """All dense; some dense, the others packed or streamed; some packed, the others streamed."""
    counts = sorted({blocks * share // _SHARES for share in range(_SHARES + 1)}, reverse=True)
    pairs: tuple[tuple[Residence, Residence], ...] = (
        ("dense", "packed"),
        ("dense", "streamed"),
        ("packed", "streamed"),
    )
    mixes = [(first,) * count + (rest,) * (blocks - count) for first, rest in pairs for count in counts]
    yield from dict.fromkeys(mixes)
