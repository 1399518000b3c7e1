"""Smaller plans for a run that is under way: the same mathematics in less memory, one change at a time.

    tiles          the loss works on less at once
    spill          inputs of blocks go to a file
    recompute      blocks are computed again instead of keeping their graphs
    pack           weights that lie dequantized are kept packed
    stream         packed ones are read when they are needed
    micro-batch    fewer rows together

in the order in which they are tried, from what costs hardly any time to what costs most. Between blocks only weights
can move; the rest waits for the next step. Functions from a plan to a smaller one: nothing here touches a model.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

from pocketft.engine.residency import Residence
from pocketft.memory.candidates import CAN_SPILL, TILES, tile_bytes, weight_bytes
from pocketft.memory.plan import Plan, Rise


@dataclass(frozen=True)
class ModelSizes:
    """Bytes of each block's matrices dequantized, and of the block as its source keeps it."""

    dense_bytes: tuple[int, ...]
    packed_bytes: tuple[int, ...]
    hidden_size: int


@dataclass(frozen=True)
class Change:
    """`freed_bytes` is how much less `plan` is predicted to need; `action` says it to the person."""

    plan: Plan
    action: str
    freed_bytes: int


Measure = Callable[[Plan, ModelSizes, int], "tuple[Plan, str] | None"]


def next_change(plan: Plan, sizes: ModelSizes, missing_bytes: int, measures: Sequence[Measure]) -> Change | None:
    """The first of `measures` that frees anything, taken as far as `missing_bytes` asks for; None where none does."""
    for measure in measures:
        made = measure(plan, sizes, missing_bytes)
        if made is not None and (freed := _needed(plan) - _needed(made[0])) > 0:
            return Change(*made, freed)
    return None


def smaller_tiles(plan: Plan, sizes: ModelSizes, missing_bytes: int) -> tuple[Plan, str] | None:
    if plan.loss_tiles not in TILES[:-1]:
        return None
    tiles = TILES[TILES.index(plan.loss_tiles) + 1]
    before, after = (tile_bytes(t, sizes.hidden_size, plan.dtype.itemsize) for t in (plan.loss_tiles, tiles))
    rise = replace(plan.rise, loss=plan.rise.loss - before + after)
    return _with_rise(replace(plan, loss_tiles=tiles), rise), f"loss now in tiles of {tiles.vocab_rows} words"


def spilled_inputs(plan: Plan, sizes: ModelSizes, missing_bytes: int) -> tuple[Plan, str] | None:
    if plan.spill_inputs or not CAN_SPILL:
        return None
    inputs = plan.components["block_inputs"]
    held = min(inputs, inputs * (plan.kept_blocks + 2) // (len(plan.residences) + 1))  # of graphs, and at work
    components = {**plan.components, "block_inputs": held}
    return replace(plan, spill_inputs=True, components=components), "inputs of blocks now in a file"


def recomputed(plan: Plan, sizes: ModelSizes, missing_bytes: int) -> tuple[Plan, str] | None:
    if not plan.kept_blocks:
        return None
    of_one = plan.components["kept_graphs"] // plan.kept_blocks
    kept = max(0, plan.kept_blocks - -(-missing_bytes // max(1, of_one)))
    components = {**plan.components, "kept_graphs": kept * of_one}
    if plan.spill_inputs:
        components["block_inputs"] = components["block_inputs"] * (kept + 2) // (plan.kept_blocks + 2)
    rise = plan.rise if kept else replace(plan.rise, kept=0)
    return _with_rise(
        replace(plan, kept_blocks=kept, components=components), rise
    ), f"{len(plan.residences) - kept} blocks now computed again"


def packed(plan: Plan, sizes: ModelSizes, missing_bytes: int) -> tuple[Plan, str] | None:
    return _moved(plan, sizes, missing_bytes, "dense", "packed")


def streamed(plan: Plan, sizes: ModelSizes, missing_bytes: int) -> tuple[Plan, str] | None:
    return _moved(plan, sizes, missing_bytes, "packed", "streamed")


def smaller_micro_batch(plan: Plan, sizes: ModelSizes, missing_bytes: int) -> tuple[Plan, str] | None:
    if plan.micro_batch == 1:
        return None
    rows = plan.micro_batch // 2
    shrunk = {name: getattr(plan.rise, name) * rows // plan.micro_batch for name in ("forward", "backward", "again")}
    rise = replace(plan.rise, **shrunk)
    return _with_rise(replace(plan, micro_batch=rows), rise), f"micro-batch now {rows}"


BETWEEN_BLOCKS: tuple[Measure, ...] = (packed, streamed)
BEFORE_AN_EVALUATION: tuple[Measure, ...] = (smaller_tiles, packed, streamed, smaller_micro_batch)
BEFORE_A_STEP: tuple[Measure, ...] = (
    smaller_tiles,
    spilled_inputs,
    recomputed,
    packed,
    streamed,
    smaller_micro_batch,
)


def _moved(
    plan: Plan, sizes: ModelSizes, missing_bytes: int, old: Residence, new: Residence
) -> tuple[Plan, str] | None:
    """The last blocks of residence `old`, as few as free enough, live as `new`. The first to move frees nothing: what
    such blocks share has to be made for it.
    """
    residences = list(plan.residences)
    before = _weights(plan.residences, sizes)
    indices = [index for index, residence in enumerate(residences) if residence == old]
    for last in reversed(indices):
        residences[last] = new
        freed = before - _weights(residences, sizes)
        if freed >= missing_bytes or last == indices[0]:
            components = {**plan.components, "weights": plan.components["weights"] - freed}
            moved = f"block {last + 1}" if last == indices[-1] else f"blocks {last + 1}-{indices[-1] + 1}"
            return replace(plan, residences=tuple(residences), components=components), f"{moved} now {new}"
    return None


def _weights(residences: Sequence[Residence], sizes: ModelSizes) -> int:
    return weight_bytes(residences, sizes.dense_bytes, sizes.packed_bytes)


def _with_rise(plan: Plan, rise: Rise) -> Plan:
    workspace = rise.beside(plan.components["kept_graphs"])
    return replace(plan, rise=rise, components={**plan.components, "workspace": workspace})


def _needed(plan: Plan) -> int:
    """All that a change can make smaller."""
    return plan.held_bytes + plan.components["weights"] + plan.rise.at_worst()
