"""Plans: what is counted is what happens, the cap is kept, and where nothing fits the advice does."""

from __future__ import annotations

import copy
from collections.abc import Callable

import pytest
import torch
from peft import LoraConfig
from torch import Tensor
from transformers import AutoModelForCausalLM, LlamaConfig

from pocketft.errors import CapTooSmall
from pocketft.memory.footprint import measure_footprints
from pocketft.memory.meter import rss_bytes
from pocketft.memory.plan import Plan, Workload
from pocketft.memory.planner import Choice, make_choice
from pocketft.memory.profile import MachineProfile
from pocketft.memory.size import parse_size
from pocketft.memory.tally import Tally
from tests.engine.memory_source import MemorySource, as_affine4

CONFIG = LlamaConfig(
    vocab_size=2000,
    hidden_size=256,
    intermediate_size=512,
    num_hidden_layers=8,
    num_attention_heads=4,
    num_key_value_heads=2,
    max_position_embeddings=4096,
    tie_word_embeddings=True,
)
LORA = LoraConfig(r=4, lora_alpha=8, target_modules="all-linear", task_type="CAUSAL_LM")
PROFILE = MachineProfile(
    cores=2,
    bf16_gflops=600.0,
    fp32_gflops=180.0,
    dequantize_ns_per_weight=0.3,
    moved_gb_per_s=25.0,
    operation_us=10.0,
    disk_gb_per_s=1.0,
)
MB = 1 << 20


@pytest.fixture(scope="module")
def source() -> MemorySource:
    torch.manual_seed(0)
    return MemorySource(AutoModelForCausalLM.from_config(CONFIG), as_affine4)


def plan_for(
    source: MemorySource, cap_bytes: int, row_tokens: int = 512, row_lengths: int = 1, dtype: str = "bfloat16"
) -> Plan:
    workload = Workload(
        rows_per_step=4,
        row_tokens=row_tokens,
        tokens=100_000,
        micro_batch=None,
        optimizer_bytes=8,
        row_lengths=row_lengths,
    )
    return make_choice(CONFIG, source, copy.deepcopy(LORA), workload, PROFILE, cap_bytes, dtype).plan


def test_tally_sees_what_is_held_at_the_worst_moment() -> None:
    with Tally() as live:
        a = torch.empty(1000, device="meta")
        b = a + a
        c = b[:10]
        del a, b
        d = torch.empty(500, device="meta")
    assert (live.current, live.peak) == (4 * 1500, 4 * 2000)
    del c, d
    assert live.current == 0


def test_saved_tensors_count_until_backward_frees_them() -> None:
    x = torch.empty(1000, device="meta", requires_grad=True)
    with Tally() as live:
        y = (x.exp() * 2).sum()
        assert live.current >= 4000
        y.backward()
    del y
    assert live.current == 4000  # the gradient of x


def test_longer_rows_cost_more_and_the_adapter_is_counted_exactly(source: MemorySource) -> None:
    short, long = (
        measure_footprints(CONFIG, source, LORA, n, [(1, False)], torch.bfloat16)[1, False] for n in (256, 1024)
    )
    assert long.backward_bytes > 3 * short.backward_bytes
    per_block = sum(
        4 * (i + o) for i, o in [(256, 256), (256, 128), (256, 128), (256, 256), (256, 512), (256, 512), (512, 256)]
    )
    assert short.adapter_numbers == 8 * per_block


def test_only_products_of_new_shapes_need_kernels_of_their_own(source: MemorySource) -> None:
    found = measure_footprints(CONFIG, source, LORA, 256, [(1, False), (1, True)], torch.bfloat16)
    tiles, more_tiles = 2, 4
    twice = measure_footprints(CONFIG, source, LORA, 512, [(1, False)], torch.bfloat16)[1, False]
    assert found[1, True].kernels == found[1, False].kernels  # of kept probabilities: fewer products, no other ones
    per_tile = 3  # q kT and do vT; p v and ds k; pT do and dsT q
    assert twice.kernels - found[1, False].kernels == per_tile * (more_tiles - tiles)


def test_rows_of_several_lengths_are_foretold_their_kernels_where_kernels_are_compiled(source: MemorySource) -> None:
    def first_use(dtype: str, lengths: int) -> int:
        return plan_for(source, 4096 * MB, dtype=dtype, row_lengths=lengths).components["first_use"]

    assert first_use("bfloat16", 1) < first_use("bfloat16", 2) < first_use("bfloat16", 20)
    assert first_use("bfloat16", 20) == first_use("bfloat16", 200)  # no more than are kept
    assert first_use("float32", 1) == first_use("float32", 20)


def test_what_is_measured_one_after_another_does_not_touch_what_comes_after(source: MemorySource) -> None:
    ways = [(2, True), (1, False), (2, False), (1, True)]
    together = measure_footprints(CONFIG, source, LORA, 256, ways, torch.float32)
    for way in ways:
        assert measure_footprints(CONFIG, source, LORA, 256, [way], torch.float32)[way] == together[way]


def test_the_cap_is_kept_and_more_memory_is_never_slower(source: MemorySource) -> None:
    floor = advised_cap_bytes(source)
    plans = [plan_for(source, floor + extra * MB) for extra in (20, 60, 120, 300, 1000)]
    assert all(plan.predicted_peak_bytes <= plan.cap_bytes for plan in plans)
    assert [p.tokens_per_s for p in plans] == sorted(p.tokens_per_s for p in plans)
    assert plans[-1].kept_blocks == 8 and plans[-1].keep_attention and set(plans[-1].residences) == {"dense"}


def advised_cap_bytes(source: MemorySource) -> int:
    with pytest.raises(CapTooSmall, match="libraries alone; use --memory") as refused:
        plan_for(source, 50 * MB)
    return parse_size(str(refused.value).split("--memory ")[1].split()[0])


def test_a_cap_below_everything_names_one_that_fits(source: MemorySource) -> None:
    named = advised_cap_bytes(source) + 10 * MB  # the process itself may have grown meanwhile
    assert plan_for(source, named).predicted_peak_bytes <= named


def test_what_the_guard_reckons_with_fits_where_no_memory_is_left_to_give_back(source: MemorySource) -> None:
    """Else it would end a run, in the second step, that was going to stay under the cap."""
    smallest = advised_cap_bytes(source) + 10 * MB
    with pytest.raises(CapTooSmall) as refused:
        plan_for(source, smallest, row_tokens=8192)
    floor = parse_size(str(refused.value).split("--memory ")[1].split(",")[0]) + 10 * MB
    plan = plan_for(source, floor, row_tokens=8192)
    base = plan.predicted_peak_bytes - plan.components["workspace"]
    assert plan.tight_allocator and 1.5 * plan.components["workspace"] > plan.cap_bytes / 10
    assert base + plan.rise.at_worst() <= 0.98 * plan.cap_bytes


def test_rows_too_long_for_the_cap_are_answered_with_a_length_that_fits(source: MemorySource) -> None:
    cap = advised_cap_bytes(source) + 10 * MB
    with pytest.raises(CapTooSmall, match="max_seq_length=") as refused:
        plan_for(source, cap, row_tokens=8192)
    shorter = int(str(refused.value).rpartition("=")[2])
    assert plan_for(source, cap + 10 * MB, row_tokens=shorter).predicted_peak_bytes <= cap + 10 * MB


def test_what_is_computed_is_counted() -> None:
    x, w = torch.empty(8, 16, device="meta"), torch.empty(4, 16, device="meta")
    with Tally() as tally:
        torch.mm(x, w.t(), out=torch.empty(8, 4, device="meta"))
        torch.nn.functional.linear(x, w).relu_()
    assert tally.cost.flops == 2 * (2 * 8 * 16 * 4)
    assert tally.cost.operations == 4  # empty, two products, relu_; a transposed view is none
    assert tally.cost.moved_bytes >= 4 * 2 * (8 * 16 + 4 * 16 + 8 * 4)


def choice_for(source: MemorySource, cap_bytes: int, among: Callable[[Plan], bool] | None = None) -> Choice:
    workload = Workload(rows_per_step=4, row_tokens=512, tokens=100_000, micro_batch=None, optimizer_bytes=8)
    return make_choice(CONFIG, source, copy.deepcopy(LORA), workload, PROFILE, cap_bytes, None, among)


def test_a_choice_says_what_it_beat_and_what_more_memory_would_buy(source: MemorySource) -> None:
    tight = choice_for(source, advised_cap_bytes(source) + 30 * MB)
    assert 2 <= len(tight.alternatives) <= 3
    for other in tight.alternatives:
        assert other.fits == ("tokens/s" in other.reason)
        if not other.fits:
            assert parse_size(other.reason.split("--memory ")[1]) > tight.plan.cap_bytes
    assert tight.with_more is not None and tight.with_more.tokens_per_s > tight.plan.tokens_per_s
    for more_mb in range(0, 700, 70):  # whatever is shown as a gain is one
        choice = choice_for(source, advised_cap_bytes(source) + more_mb * MB)
        assert choice.with_more is None or choice.with_more.tokens_per_s > choice.plan.tokens_per_s
    roomy = choice_for(source, 4000 * MB)
    assert roomy.with_more is None and roomy.to_json()["with_more"] is None
    assert all(other.plan.tokens_per_s <= 1.03 * roomy.plan.tokens_per_s for other in roomy.alternatives)


def test_who_compares_plans_gets_the_fastest_of_a_kind(source: MemorySource) -> None:
    streamed = choice_for(source, 4000 * MB, lambda plan: set(plan.residences) == {"streamed"}).plan
    assert streamed.residences == ("streamed",) * 8 and streamed.kept_blocks == 8


def test_planning_reads_no_weight() -> None:
    class Unreadable(MemorySource):
        def read_block(self, name: str, buffer: Tensor | None = None):  # type: ignore[no-untyped-def]
            raise AssertionError("a weight was read")

        read_tensors = read_block  # type: ignore[assignment]

    source = Unreadable(AutoModelForCausalLM.from_config(CONFIG), as_affine4)
    assert plan_for(source, rss_bytes() + 400 * MB).to_json()["residences"]["dense"] == 8
