"""Every way in which a plan can become smaller, and the order in which they come."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from pocketft.engine.loss import LossTiles
from pocketft.memory.plan import Plan, Rise
from pocketft.memory.shrink import BEFORE_A_STEP, BETWEEN_BLOCKS, Change, ModelSizes, next_change

SIZES = ModelSizes(dense_bytes=(100,) * 4, packed_bytes=(30,) * 4, hidden_size=8)


def make(**changes: Any) -> Plan:
    plan = Plan(
        micro_batch=4,
        residences=("dense",) * 4,
        kept_blocks=2,
        keep_attention=False,
        loss_tiles=LossTiles(4096, 512),
        compute_dtype="float32",
        components={
            "weights": 450,
            "block_inputs": 50,
            "call_arguments": 0,
            "kept_graphs": 200,
            "workspace": 17_640_000,
        },
        tight_allocator=False,
        spill_inputs=False,
        stream_ends=False,
        rise=Rise(forward=4_000_000, kept=100, backward=4_000_000, again=4_000_000, loss=17_640_000),
        cap_bytes=1 << 30,
        tokens_per_s=1.0,
        total_s=1.0,
    )
    return replace(plan, **changes)


def only_blocks(**changes: Any) -> Plan:
    """With nothing to gain from the loss."""
    return make(
        loss_tiles=LossTiles(256, 64),
        rise=Rise(forward=4_000, kept=100, backward=4_000, again=4_000, loss=0),
        **changes,
    )


def change(plan: Plan, missing: int, measures: Any = BEFORE_A_STEP) -> Change:
    found = next_change(plan, SIZES, missing, measures)
    assert found is not None
    return found


def test_cheap_measures_come_first_and_all_of_them_come() -> None:
    plan, actions = make(), []
    while (found := next_change(plan, SIZES, 1 << 40, BEFORE_A_STEP)) is not None:
        assert found.freed_bytes > 0
        plan = found.plan
        actions.append(found.action)
    assert actions == [
        "loss now in tiles of 2048 words",
        "loss now in tiles of 1024 words",
        "inputs of blocks now in a file",
        "4 blocks now computed again",
        "blocks 1-4 now packed",
        "blocks 1-4 now streamed",
        "micro-batch now 2",
        "micro-batch now 1",
        "loss now in tiles of 256 words",  # now no longer less than what a block takes
    ]
    assert plan.predicted_peak_bytes < make().predicted_peak_bytes and plan.rise.at_worst() < make().rise.at_worst()


def test_no_more_is_given_up_than_is_missing() -> None:
    assert change(only_blocks(spill_inputs=True), 90).plan.kept_blocks == 1
    plan = only_blocks(spill_inputs=True, kept_blocks=0)
    few = change(plan, 20)  # two blocks free 2 * 70 less the scratch that they share
    assert few.plan.residences == ("dense", "dense", "packed", "packed") and few.freed_bytes == 40
    assert few.plan.components["weights"] == plan.components["weights"] - 40
    assert few.action == "blocks 3-4 now packed"


def test_smaller_tiles_are_no_help_where_blocks_need_more() -> None:
    plan = make(rise=Rise(forward=80_000_000, kept=0, backward=80_000_000, again=80_000_000, loss=60_000_000))
    assert change(plan, 10).action == "inputs of blocks now in a file"


def test_a_rise_goes_by_what_comes_next() -> None:
    rise = Rise(forward=10, kept=40, backward=15, again=50, loss=20)
    assert [rise.until_next_look(coming) for coming in ("block", "graph", "on graphs")] == [50, 50, 20]
    assert [rise.at_worst(coming) for coming in ("block", "graph", "on graphs")] == [75, 55, 30]
    assert rise.beside(0) == 50 and rise.beside(25) == 25 and rise.beside(100) == 20


def test_inputs_of_graphs_stay_in_memory_until_the_graphs_are_given_up() -> None:
    spilled = only_blocks(spill_inputs=True, components={**make().components, "block_inputs": 40})
    found = change(spilled, 10)
    assert found.plan.kept_blocks == 1 and found.plan.components["block_inputs"] == 30
    held = change(only_blocks(), 10).plan
    assert held.spill_inputs and held.components["block_inputs"] == 40  # of 5, those of 2 graphs and 2 at work


def test_between_blocks_only_weights_move() -> None:
    first = change(make(), 1 << 40, BETWEEN_BLOCKS)
    assert set(first.plan.residences) == {"packed"}
    second = change(first.plan, 1 << 40, BETWEEN_BLOCKS)
    assert set(second.plan.residences) == {"streamed"}
    assert next_change(second.plan, SIZES, 1, BETWEEN_BLOCKS) is None


def test_a_plan_comes_back_from_json_in_the_order_of_its_blocks() -> None:
    plan = make(residences=("dense", "packed", "streamed", "streamed"))
    assert Plan.from_json(plan.to_json(), 1 << 20) == replace(plan, cap_bytes=1 << 20)


@pytest.mark.parametrize("residence", ["packed", "streamed"])
def test_one_block_alone_is_not_moved_where_that_frees_nothing(residence: Any) -> None:
    sizes = ModelSizes((100,), (30,), 8)
    plan = only_blocks(residences=("dense" if residence == "packed" else "packed",))
    assert next_change(plan, sizes, 10, BETWEEN_BLOCKS) is None
