"""Choose how to train: the fastest way whose predicted peak stays under the cap. The mathematics is the same in every
plan.

    predicted peak = what is in memory already (imports) + what kernels add when first used
                     + weights where they live + adapter, gradients and optimizer
                     + inputs of all blocks and call arguments + graphs that are kept
                     + the larger of a block's and the loss's workspace + what the allocator keeps

Knows sizes and rates (`footprint.py`, `throughput.py`); reads no weight and no text.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any

import torch
from peft import LoraConfig
from transformers import PretrainedConfig

from pocketft.engine.loss import LossTiles
from pocketft.engine.residency import RESIDENCES, Residence
from pocketft.engine.weights import WeightSource
from pocketft.errors import CapTooSmall
from pocketft.memory.allocator import release_code, release_freed_memory
from pocketft.memory.footprint import Footprint, measure_footprint
from pocketft.memory.meter import rss_bytes
from pocketft.memory.profile import MachineProfile
from pocketft.memory.size import format_size
from pocketft.memory.throughput import Work, step_seconds

# Kernels compiled at first use (oneDNN keeps them, about 0.4 MB each, up to the number that `cli/environment.py`
# allows), stacks of threads, scratch of the dequantization. Measured 45-95 MB on 2 cores, growing over the first
# steps.
_FIRST_USE_BYTES = 96 << 20
_TIGHT_SLOWER = 1.1
_RISE = 1.5  # what kernels take for themselves while they run is not among the tensors that are counted
_SPILL_S_PER_BYTE = 2.5e-9  # written to the page cache and read back
CAN_SPILL = hasattr(os, "preadv")
_FRUGALITY = [
    (tight, spill) for tight in (False, True) for spill in ((False, True) if CAN_SPILL else (False,))
]  # tight allocator, inputs in a file
_SURE = 0.95  # of the cap may be planned for: predictions are right to a few percent, and the cap is a promise
TILES = (LossTiles(4096, 512), LossTiles(2048, 256), LossTiles(1024, 128), LossTiles(256, 64))
_ENOUGH_TOKENS = 512  # a product of fewer rows does not reach the machine's rate


@dataclass(frozen=True)
class Workload:
    """What is to be trained: `rows_per_step` rows of at most `row_tokens` tokens an optimizer step, `tokens` in all.

    `micro_batch` is the number of rows computed together where the person fixed it. `optimizer_bytes` are per adapter
    number. `forward_only`: nothing is trained, the text is only scored or answered.
    """

    rows_per_step: int
    row_tokens: int
    tokens: int
    micro_batch: int | None
    optimizer_bytes: int
    forward_only: bool = False
    cache_bytes: int = 0  # keys and values of an answer

    @property
    def tokens_per_step(self) -> int:
        return self.rows_per_step * self.row_tokens


@dataclass(frozen=True)
class Plan:
    """How to train, and what that is predicted to cost. `rises` are what a block, the loss and the graphs kept of one
    block take for a while.
    """

    micro_batch: int
    residences: tuple[Residence, ...]
    kept_blocks: int
    loss_tiles: LossTiles
    compute_dtype: str
    components: dict[str, int]
    tight_allocator: bool
    spill_inputs: bool
    rises: dict[str, int]
    cap_bytes: int
    tokens_per_s: float
    total_s: float

    @property
    def predicted_peak_bytes(self) -> int:
        return sum(self.components.values())

    @property
    def rise_bytes(self) -> int:
        """The most that memory grows between two looks of the guard."""
        return int(_RISE * max(self.rises["block"], self.rises["loss"])) + self.rises["kept"]

    @property
    def held_bytes(self) -> int:
        """What gathers in the course of a step and is gone at its end."""
        return self.components["block_inputs"] + self.components["kept_graphs"]

    @property
    def dtype(self) -> torch.dtype:
        return torch.bfloat16 if self.compute_dtype == "bfloat16" else torch.float32

    @property
    def choice(self) -> str:
        kinds = {kind: self.residences.count(kind) for kind in RESIDENCES}
        weights = ", ".join(f"{count} {kind}" for kind, count in kinds.items() if count)
        again = len(self.residences) - self.kept_blocks
        allocator = "; memory given back at once" if self.tight_allocator else ""
        allocator += "; inputs of blocks in a file" if self.spill_inputs else ""
        return (
            f"{weights} blocks; {again} computed again for the gradient; "
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
        given.update(residences=residences, loss_tiles=LossTiles(**saved["loss_tiles"]), cap_bytes=cap_bytes)
        return cls(**given)


def make_plan(
    config: PretrainedConfig,
    source: WeightSource,
    lora: LoraConfig,
    workload: Workload,
    profile: MachineProfile,
    cap_bytes: int,
    dtype: str | None = None,
) -> Plan:
    """The fastest plan under `cap_bytes`. Raises CapTooSmall, with the smallest change that fits, where there is
    none.
    """
    maker = _Maker(config, source, lora, workload, profile, cap_bytes, dtype or profile.compute_dtype)
    plans = list(maker.candidates())
    fitting = [plan for plan in plans if plan.predicted_peak_bytes <= maker.room_bytes]
    if fitting:
        return max(fitting, key=lambda plan: (plan.tokens_per_s, -plan.predicted_peak_bytes))
    raise CapTooSmall(_advice(maker, min(plan.predicted_peak_bytes for plan in plans)))


class _Maker:
    """Sizes that all candidates share, computed once."""

    def __init__(
        self,
        config: PretrainedConfig,
        source: WeightSource,
        lora: LoraConfig,
        workload: Workload,
        profile: MachineProfile,
        cap_bytes: int,
        dtype: str,
    ) -> None:
        self.config, self.source, self.lora = config, source, lora
        self.workload, self.profile, self.cap_bytes, self.dtype = workload, profile, cap_bytes, dtype
        self.itemsize = 2 if dtype == "bfloat16" else 4
        self._footprints: dict[int, Footprint] = {}
        names = [name for name in source.block_names() if name.startswith("block.")]
        specs = [source.block_spec(name) for name in names]
        self.packed = [spec.nbytes for spec in specs]
        self.weights = [sum(t.numel for t in spec.tensors if len(t.shape) == 2) for spec in specs]
        self.dense = [weights * self.itemsize for weights in self.weights]
        ends = [name for name in ("embedding", "head", "norm") if name in source.block_names()]
        self.ends_bytes = sum(source.block_spec(name).nbytes for name in ends)
        self.footprint(self.micro_batches()[0])  # imports the model's code, which then counts as what it is
        release_freed_memory()  # of whatever this process did before
        release_code()
        self.imports_bytes = rss_bytes()

    @property
    def room_bytes(self) -> int:
        return int(self.cap_bytes * _SURE)

    @property
    def head_weights(self) -> int:
        return self.config.vocab_size * self.config.hidden_size

    def footprint(self, micro_batch: int) -> Footprint:
        if micro_batch not in self._footprints:
            self._footprints[micro_batch] = self._measured(micro_batch)
        return self._footprints[micro_batch]

    def _measured(self, micro_batch: int) -> Footprint:
        torch_dtype = torch.bfloat16 if self.dtype == "bfloat16" else torch.float32
        shape = (micro_batch, self.workload.row_tokens)
        return measure_footprint(self.config, self.source, self.lora, shape, torch_dtype)

    def candidates(self) -> Iterator[Plan]:
        blocks = len(self.packed)
        for micro_batch in self.micro_batches():
            for residences in _residence_mixes(blocks):
                for kept in self.kept_choices(blocks):
                    for tiles in TILES:
                        for tight, spill in _FRUGALITY:
                            yield self.plan(micro_batch, residences, kept, tiles, tight, spill)

    def micro_batches(self) -> list[int]:
        """What the person asked for; else enough rows to keep the products busy, or single rows where that is too
        much.
        """
        if self.workload.micro_batch is not None:
            return [self.workload.micro_batch]
        wanted = 1
        while wanted * self.workload.row_tokens < _ENOUGH_TOKENS and wanted * 2 <= self.workload.rows_per_step:
            wanted *= 2
        return sorted({1, wanted})

    def kept_choices(self, blocks: int) -> list[int]:
        if self.workload.forward_only:
            return [0]
        return sorted({blocks, blocks * 3 // 4, blocks // 2, blocks // 4, 0})

    def plan(
        self,
        micro_batch: int,
        residences: tuple[Residence, ...],
        kept: int,
        tiles: LossTiles,
        tight: bool,
        spill: bool,
    ) -> Plan:
        footprint, forward_only = self.footprint(micro_batch), self.workload.forward_only
        micro_batches = -(-self.workload.rows_per_step // micro_batch)
        block_bytes = (
            footprint.forward_bytes if forward_only else max(footprint.forward_bytes, footprint.backward_bytes)
        )
        rises = {
            "block": block_bytes,
            "loss": self.loss_bytes(tiles),
            "kept": micro_batches * footprint.kept_bytes if kept else 0,
        }
        # gradients and optimizer beside the parameters; without training, the copy that is loaded from
        per_number = 8 if forward_only else 8 + self.workload.optimizer_bytes
        held_inputs = 2 if forward_only or spill else len(residences) + 1
        components = {
            "imports": self.imports_bytes,
            "first_use": _FIRST_USE_BYTES,
            "weights": self.ends_bytes + weight_bytes(residences, self.dense, self.packed),
            "adapter": footprint.adapter_numbers * per_number,
            "block_inputs": held_inputs * self.step_hidden_bytes + micro_batches * footprint.arguments_bytes,
            "kept_graphs": kept * micro_batches * footprint.kept_bytes,
            "workspace": max(rises["block"], rises["loss"]),
            "cache": self.workload.cache_bytes,
        }
        components["allocator"] = _gap_bytes(components, tight)
        seconds = step_seconds(self.work(residences, kept, tiles), self.profile, self.dtype)
        if tight:
            seconds *= _TIGHT_SLOWER
        if spill:
            seconds += len(residences) * self.step_hidden_bytes * _SPILL_S_PER_BYTE
        tokens_per_s = self.workload.tokens_per_step / seconds
        return Plan(
            micro_batch=micro_batch,
            residences=residences,
            kept_blocks=kept,
            loss_tiles=tiles,
            compute_dtype=self.dtype,
            components=components,
            tight_allocator=tight,
            spill_inputs=spill,
            rises=rises,
            cap_bytes=self.cap_bytes,
            tokens_per_s=tokens_per_s,
            total_s=self.workload.tokens / tokens_per_s,
        )

    @property
    def step_hidden_bytes(self) -> int:
        """Hidden states of all tokens of a step, once."""
        return self.workload.tokens_per_step * self.config.hidden_size * self.itemsize

    def loss_bytes(self, tiles: LossTiles) -> int:
        """Normed states, their loss rows and gradients; the running sums in fp32; one tile of logits and its fp32
        copies.
        """
        hidden = 4 * self.step_hidden_bytes
        running = self.workload.tokens_per_step * self.config.hidden_size * 4
        return hidden + running + tile_bytes(tiles, self.config.hidden_size, self.itemsize)

    def work(self, residences: tuple[Residence, ...], kept: int, tiles: LossTiles) -> Work:
        tokens = self.workload.tokens_per_step
        shared = [w for kind, w in zip(residences, self.weights, strict=True) if kind != "dense"]
        streamed = [p for kind, p in zip(residences, self.packed, strict=True) if kind == "streamed"]
        recomputed = sum(self.weights[: len(self.weights) - kept])
        visits = -(-tokens // tiles.tokens) * -(-self.config.vocab_size // tiles.vocab_rows)
        return Work(tokens, visits, sum(self.weights), sum(shared), recomputed, self.head_weights, sum(streamed))


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
    logits = tiles.tokens * tiles.vocab_rows * (itemsize * 2 + 4)
    return logits + tiles.vocab_rows * hidden_size * (itemsize + 4)


def _gap_bytes(components: dict[str, int], tight: bool) -> int:
    """Freed memory that the allocator keeps (`allocator.py`), by what is allocated and freed again and again."""
    churn, inputs, kept = (components[name] for name in ("workspace", "block_inputs", "kept_graphs"))
    return int(0.4 * churn + 0.15 * inputs + 0.05 * kept if tight else churn + 0.2 * inputs + 0.25 * kept)


def _residence_mixes(blocks: int) -> Iterator[tuple[Residence, ...]]:
    """All dense; some dense, the others packed or streamed; some packed, the others streamed."""
    pairs: tuple[tuple[Residence, Residence], ...] = (
        ("dense", "packed"),
        ("dense", "streamed"),
        ("packed", "streamed"),
    )
    for first, rest in pairs:
        for count in range(blocks, -1, -1):
            yield (first,) * count + (rest,) * (blocks - count)


def _advice(maker: _Maker, needed_bytes: int) -> str:
    cap, tokens = format_size(maker.cap_bytes), maker.workload.row_tokens
    rounded = -(-int(needed_bytes / _SURE) // (10 << 20)) * (10 << 20)
    head = f"no plan fits in {cap}: at {tokens} tokens a row the smallest needs {format_size(needed_bytes)}"
    if maker.imports_bytes + _FIRST_USE_BYTES >= maker.cap_bytes:
        libraries = format_size(maker.imports_bytes + _FIRST_USE_BYTES)
        return f"{head}, of which {libraries} are the libraries alone; use --memory {rounded >> 20}MB or more"
    shorter = None if maker.workload.forward_only else _shorter_rows(maker)
    instead = f", or --set data.max_seq_length={shorter}" if shorter else ""
    return f"{head}; use --memory {rounded >> 20}MB{instead}"


def _shorter_rows(maker: _Maker) -> int | None:
    """The longest halving of the row length that fits as the cap stands."""
    tokens = maker.workload.row_tokens // 2
    while tokens >= 64:
        workload = replace(maker.workload, row_tokens=tokens)
        trial = _Maker(maker.config, maker.source, maker.lora, workload, maker.profile, maker.cap_bytes, maker.dtype)
        if any(plan.predicted_peak_bytes <= trial.room_bytes for plan in trial.candidates()):
            return tokens
        tokens //= 2
    return None
