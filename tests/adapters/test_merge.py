"""Merging adapters: what comes out, what is refused, and what is said."""

from __future__ import annotations

import itertools
import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from peft import LoraConfig, PeftModel, get_peft_model
from safetensors.torch import load_file
from transformers import LlamaConfig, LlamaForCausalLM

from pocketft.adapters.folder import read_adapter
from pocketft.adapters.merge import merge_states
from pocketft.adapters.merge_files import merge_files
from pocketft.adapters.merge_settings import MergeSettings
from pocketft.adapters.state import Factors, MemoryAdapter
from pocketft.errors import AdapterError, UsageError
from tests.adapters.build import SHAPES, adapter, changed, dense, distance, holding, mean, write

UNCLIPPED = MergeSettings(clip="none")
LOSSLESS = MergeSettings(lossless=True)

TINY = LlamaConfig(
    hidden_size=16,
    intermediate_size=24,
    num_hidden_layers=2,
    num_attention_heads=2,
    num_key_value_heads=1,
    vocab_size=32,
)


def merge(*paths: Path, output: Path, **fields: Any) -> dict[str, torch.Tensor]:
    """Merge folders through files and give back the dense updates of the result."""
    merge_files(paths, output, MergeSettings(**fields), force=True)
    return dense(read_adapter(output))


@pytest.mark.parametrize("count", [1, 2, 3, 7])
@pytest.mark.parametrize("config", [{}, {"use_rslora": True}, {"rank_pattern": {"q_proj": 4}, "r": 9}])
@pytest.mark.parametrize("fields", [{}, {"lossless": True}, {"robust": "trimmed"}])
def test_copies_merge_to_the_adapter(
    tmp_path: Path, count: int, config: dict[str, Any], fields: dict[str, Any]
) -> None:
    one = adapter(1, shapes={"model.layers.0.self_attn.q_proj": (24, 20)})
    folder = write(tmp_path / "a", one, config=config)
    if fields.get("robust") and count < 3:
        return
    merged = merge(*[folder] * count, output=tmp_path / "m", **fields)
    assert distance(merged, dense(read_adapter(folder))) < 1e-5
    written = json.loads((tmp_path / "m" / "adapter_config.json").read_text())
    assert written["r"] == written["lora_alpha"] == 4 and written["use_rslora"] is False


def test_any_order_of_files_gives_the_same_bytes(tmp_path: Path) -> None:
    folders = [write(tmp_path / str(i), adapter(i, rank=2 + i, scaling=0.5 + i)) for i in range(3)]
    written = set()
    for number, order in enumerate(itertools.permutations(folders)):
        merge_files(order, tmp_path / f"m{number}", MergeSettings())
        written.add((tmp_path / f"m{number}" / "adapter_model.safetensors").read_bytes())
    assert len(written) == 1


adapters = st.lists(st.tuples(st.integers(0, 10**6), st.integers(1, 6), st.floats(0.05, 20)), min_size=1, max_size=5)


@settings(max_examples=25, deadline=None)
@given(adapters, st.data())
def test_lossless_is_the_dense_weighted_mean(described: list[tuple[int, int, float]], data: st.DataObject) -> None:
    states = [adapter(*each) for each in described]
    weights = data.draw(st.lists(st.floats(0.1, 10), min_size=len(states), max_size=len(states)))
    merged = merge_states(states, replace(LOSSLESS, weights=tuple(weights)))
    assert distance(dense(merged), mean(states, weights)) < 1e-5
    assert merged.report.energy_kept == pytest.approx(1)


@settings(max_examples=20, deadline=None)
@given(adapters, st.integers(0, 10**6))
def test_factors_of_the_same_update_are_interchangeable(described: list[tuple[int, int, float]], seed: int) -> None:
    states = [adapter(*each) for each in described]
    draw = torch.Generator().manual_seed(seed)

    def refactor(factors: Factors) -> Factors:
        turn, _ = torch.linalg.qr(torch.randn(len(factors.a), len(factors.a), generator=draw, dtype=torch.float64))
        r = turn * torch.logspace(-1, 1, len(factors.a), dtype=torch.float64)
        return Factors(
            (torch.linalg.inv(r) @ factors.a.double()).float(), (factors.b.double() @ r).float(), factors.scaling
        )

    others = [holding({name: refactor(f) for name, f in s.tensors.items()}, s.info.label) for s in states]
    for fields in (MergeSettings(), LOSSLESS, MergeSettings(rank=3)):
        one, other = merge_states(states, fields), merge_states(others, fields)
        assert distance(dense(one), dense(other)) < 1e-4


def tiny(adapters: int, **config: Any) -> PeftModel:
    """A tiny model with several LoRAs of different ranks, alphas and kinds, all with random numbers."""
    torch.manual_seed(0)
    base = LlamaForCausalLM(TINY)
    names = [f"a{i}" for i in range(adapters)]
    values = {"target_modules": ["q_proj", "up_proj"], "task_type": "CAUSAL_LM", **config}
    configs = [LoraConfig(r=2 + i, lora_alpha=4 + i, use_rslora=bool(i % 2), **values) for i in range(adapters)]
    model = get_peft_model(base, configs[0], adapter_name=names[0])
    for name, each in zip(names[1:], configs[1:], strict=True):
        model.add_adapter(name, each)
    for name, parameter in model.named_parameters():
        if "lora_" in name:
            torch.nn.init.normal_(parameter)
    return model


def test_lossless_equals_pefts_cat_and_loads_in_peft(tmp_path: Path) -> None:
    model = tiny(3)
    model.save_pretrained(str(tmp_path))
    folders = [tmp_path / f"a{i}" for i in range(3)]
    weights = [0.5, 0.3, 0.2]
    merge_files(folders, tmp_path / "m", replace(LOSSLESS, weights=tuple(weights)))
    model.add_weighted_adapter(["a0", "a1", "a2"], weights, "cat", combination_type="cat")
    for name, update in dense(read_adapter(tmp_path / "m")).items():
        wanted = model.get_submodule(f"base_model.model.{name}").get_delta_weight("cat").double()
        assert (update - wanted).norm() / wanted.norm() < 1e-5
    model.set_adapter("cat")
    torch.manual_seed(0)
    loaded = PeftModel.from_pretrained(LlamaForCausalLM(TINY), str(tmp_path / "m"))
    ids = torch.arange(10)[None]
    with torch.no_grad():
        assert torch.allclose(loaded(ids).logits, model(ids).logits, atol=1e-4)


def test_ranks_follow_the_energy_asked_for() -> None:
    states = [adapter(i, rank=6) for i in range(3)]
    wanted = mean(states)
    for energy in (0.5, 0.9, 0.99):
        merged = merge_states(states, MergeSettings(energy=energy, clip="none"))
        assert energy <= merged.report.energy_kept < 1
        assert distance(dense(merged), wanted) == pytest.approx((1 - merged.report.energy_kept) ** 0.5, abs=1e-4)
        less = merge_states(states, MergeSettings(rank=merged.report.rank - 1, clip="none"))
        assert less.report.energy_kept < energy
        worst = merged.report.worst_module
        assert worst is not None
        gap = distance({worst: dense(merged)[worst]}, {worst: wanted[worst]})
        assert gap == pytest.approx((1 - merged.report.worst_module_energy_kept) ** 0.5, abs=1e-4)


def test_by_default_no_merge_is_of_lower_rank_than_its_adapters() -> None:
    draw = torch.Generator().manual_seed(0)
    decaying = {
        name: Factors(
            torch.logspace(0, -3, 8)[:, None] * torch.randn(8, shape[0], generator=draw),
            torch.randn(shape[1], 8, generator=draw),
            1.0,
        )
        for name, shape in SHAPES.items()
    }
    one = holding(decaying)
    assert merge_states([one], MergeSettings()).report.rank == 8
    assert merge_states([one], MergeSettings(energy=0.99)).report.rank < 8


def test_asking_for_more_rank_than_there_is_says_so() -> None:
    report = merge_states([adapter(1), adapter(2)], MergeSettings(rank=50, clip="none")).report
    assert report.rank == 8 and any("--rank 50" in notice for notice in report.notices)


def test_a_module_that_one_adapter_lacks_counts_as_zero_there_and_is_reported() -> None:
    first, second = SHAPES
    whole, part = adapter(1), adapter(2, shapes={first: SHAPES[first]}, label="part")
    merged = merge_states([whole, part], LOSSLESS)
    assert distance(dense(merged), mean([whole, part])) < 1e-5
    assert merged.report.missing == {"part": (second,)}


def test_targets_of_mixed_adapters_load_in_peft_without_extra_layers(tmp_path: Path) -> None:
    tiny(1, layers_to_transform=[0]).save_pretrained(str(tmp_path / "x"))
    tiny(1, layers_to_transform=[1]).save_pretrained(str(tmp_path / "y"))
    output = tmp_path / "m"
    merge_files([tmp_path / "x" / "a0", tmp_path / "y" / "a0"], output, LOSSLESS)
    loaded = PeftModel.from_pretrained(LlamaForCausalLM(TINY), str(output))
    tensors = [name for name, _ in loaded.named_parameters() if "lora_A" in name]
    assert (
        len(tensors) == 4 == len([name for name in load_file(output / "adapter_model.safetensors") if "lora_A" in name])
    )


def with_extra(seed: int, value: float) -> MemoryAdapter:
    name = "base_model.model.model.layers.0.mlp.down_proj.bias"
    state = changed(adapter(seed), extras={name: (3,)})
    return replace(state, extra_tensors={name: torch.full((3,), value)})


def test_biases_and_saved_modules_are_averaged_by_weight_not_clipped(tmp_path: Path) -> None:
    folders = [write(tmp_path / str(i), with_extra(i, float(i)), config={"bias": "all"}) for i in range(3)]
    merge_files(folders, tmp_path / "m", MergeSettings(weights=(1.0, 1.0, 2.0)))
    state = read_adapter(tmp_path / "m")
    (name,) = state.info.extras
    assert torch.allclose(state.extra(name), torch.full((3,), 1.25))
    assert state.info.config["bias"] == "all"


@pytest.mark.parametrize("value", [float("nan"), float("inf"), float("-inf")])
@pytest.mark.parametrize("side", ["a", "b"])
def test_an_adapter_with_nan_or_infinity_is_refused_by_name(value: float, side: str) -> None:
    bad = adapter(2, label="bad")
    name = next(iter(SHAPES))
    getattr(bad.tensors[name], side)[1, 1] = value
    with pytest.raises(AdapterError, match=f"bad: {name} has NaN or infinity in its factor {side.upper()}"):
        merge_states([adapter(1), bad, adapter(3)], MergeSettings())


def test_nan_in_a_whole_tensor_is_refused_by_name() -> None:
    with pytest.raises(AdapterError, match=r"adapter-2: .*bias has NaN"):
        merge_states([with_extra(1, 1.0), with_extra(2, float("nan"))], MergeSettings())


def family(count: int, seed: int = 100, own: float = 0.5) -> list[MemoryAdapter]:
    """Adapters that learned much the same, each with something of its own."""
    shared = adapter(seed, scaling=1.0)
    return [
        holding(
            {
                name: Factors(torch.cat([f.a, mine.a]), torch.cat([f.b, own * mine.b], 1), 1.0)
                for (name, f), mine in zip(shared.tensors.items(), adapter(seed + 1 + i).tensors.values(), strict=True)
            },
            f"good-{i}",
            tokens=1000 + i,
        )
        for i in range(count)
    ]


def scaled(state: MemoryAdapter, factor: float, label: str) -> MemoryAdapter:
    tensors = {name: replace(f, scaling=f.scaling * factor) for name, f in state.tensors.items()}
    return holding(tensors, label, **state.info.provenance)


def test_one_adapter_a_hundred_times_too_large_is_contained_and_named() -> None:
    good = family(6)
    hostile = [*good[:5], scaled(good[5], 100, "loud")]
    merged = merge_states(hostile, MergeSettings())
    assert distance(dense(merged), dense(merge_states(good, MergeSettings()))) < 0.02
    loud = merged.report.parents[5]
    assert loud.clip_scale < 0.02 and "times as long" in loud.outlier[0]
    assert distance(dense(merge_states(hostile, UNCLIPPED)), dense(merge_states(good, UNCLIPPED))) > 5


def test_an_inverted_adapter_is_named_and_trimmed() -> None:
    good = family(5)
    hostile = [*good, scaled(family(6)[5], -1, "inverted")]
    report = merge_states(hostile, MergeSettings(robust="trimmed")).report
    assert report.parents[5].dropped and any("points away" in reason for reason in report.parents[5].outlier)


def test_a_claim_of_a_million_million_tokens_is_contained_and_named() -> None:
    good = family(6)
    liar = changed(good[5], provenance={"tokens": 10**12}, label="liar")
    report = merge_states([*good[:5], liar], MergeSettings()).report
    assert report.parents[5].weight < 0.2
    assert any("liar claims 1,000,000,000,000" in notice for notice in report.notices)


def test_two_that_disagree_are_merged_plainly_and_it_is_said() -> None:
    states = [adapter(1), scaled(adapter(1), -30, "opposite")]
    merged = merge_states(states, MergeSettings())
    assert distance(dense(merged), mean(states)) < 1e-5
    assert any("disagree" in line for line in merged.report.disagreement)
    assert all(parent.clip_scale == 1 and not parent.outlier for parent in merged.report.parents)


def test_weights_come_from_tokens_or_the_person_and_parents_stay_in_their_order() -> None:
    states = [adapter(1, tokens=3000), adapter(2, tokens=1000)]
    assert distance(dense(merge_states(states, LOSSLESS)), mean(states, [3, 1])) < 1e-5
    given = merge_states(states, replace(LOSSLESS, weights=(1.0, 4.0)))
    assert distance(dense(given), mean(states, [1, 4])) < 1e-5
    assert [(p.label, p.weight) for p in given.report.parents] == [("adapter-1", 0.2), ("adapter-2", 0.8)]
    zero = merge_states(states, replace(LOSSLESS, weights=(0.0, 4.0)))
    assert distance(dense(zero), dense(states[1])) < 1e-5


def test_fedavg_needs_equal_ranks_and_prints_its_error() -> None:
    states = [adapter(1), adapter(2)]
    report = merge_states(states, MergeSettings(method="fedavg")).report
    assert report.cross_term_error is not None and report.cross_term_error > 0.3
    assert report.rank == 4
    with pytest.raises(AdapterError, match="2 and 4"):
        merge_states([adapter(1), adapter(2, rank=2)], MergeSettings(method="fedavg"))
    copies = merge_states([adapter(1), adapter(1)], MergeSettings(method="fedavg"))
    assert copies.report.cross_term_error == pytest.approx(0, abs=1e-6)


def test_ffa_needs_one_shared_a() -> None:
    with pytest.raises(AdapterError, match="share one frozen A"):
        merge_states([adapter(1), adapter(2)], MergeSettings(method="ffa"))
    first = adapter(1)
    second = holding({name: replace(f, b=torch.randn_like(f.b)) for name, f in first.tensors.items()}, "second")
    merged = merge_states([first, second], MergeSettings(method="ffa"))
    assert merged.report.rank == 4
    assert distance(dense(merged), mean([first, second])) < 1e-5


@pytest.mark.parametrize("method", ["ties", "dare"])
def test_ties_and_dare_are_the_same_in_any_order_and_loadable(tmp_path: Path, method: Any) -> None:
    folders = [write(tmp_path / str(i), adapter(i)) for i in range(3)]
    one = merge(*folders, output=tmp_path / "m", method=method, lossless=True)
    other = merge(*folders[::-1], output=tmp_path / "n", method=method, lossless=True)
    assert distance(one, other) == 0
    assert distance(one, mean([adapter(i) for i in range(3)])) < 2


@pytest.mark.parametrize(
    ("fields", "words"),
    [
        ({"method": "magic"}, "no merge method"),
        ({"robust": "magic"}, "no robust rule"),
        ({"robust": "multikrum"}, "at least 4"),
        ({"rank": 4, "energy": 0.9}, "give one of them"),
        ({"method": "fedavg", "rank": 4}, "keeps the rank"),
        ({"rank": 0}, "at least 1"),
        ({"energy": 1.5}, "--energy"),
        ({"density": 0.0}, "--density"),
        ({"clip": -1.0}, "--clip"),
        ({"clip": float("nan")}, "--clip"),
        ({"weights": (1.0,)}, "1 weights for 2"),
    ],
)
def test_settings_that_make_no_sense_are_bad_usage(fields: dict[str, Any], words: str) -> None:
    with pytest.raises(UsageError, match=words):
        merge_states([adapter(1), adapter(2)], MergeSettings(**fields))


def test_too_many_at_once_are_refused_before_memory_runs_out(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("pocketft.adapters.merge._MAX_GRAM_BYTES", 100)
    with pytest.raises(AdapterError, match="merge groups of them"):
        merge_states([adapter(1), adapter(2)], MergeSettings())


def test_the_merge_records_where_it_came_from(tmp_path: Path) -> None:
    base = {"name": "smollm2-135m", "artifact_sha256": "a" * 64, "quantization": "gguf", "licence": "Apache-2.0"}
    facts = {"base": base, "examples": 10, "steps": 5, "plan": {"secret": "/home/me"}}
    folders = [
        write(tmp_path / "home" / str(i), adapter(i), provenance={**facts, "tokens": 1000 * (i + 1)}) for i in range(3)
    ]
    outcome = merge_files(folders, tmp_path / "m", MergeSettings())
    record = json.loads((tmp_path / "m" / "pocketft.json").read_text())
    assert record["tokens"] == 6000 and record["examples"] == 30
    assert record["base"]["artifact_sha256"] == "a" * 64
    assert [p["sha256"] for p in record["parents"]] == [read_adapter(folder).info.sha256 for folder in folders]
    assert [p["weight"] for p in record["parents"]] == pytest.approx([1 / 6, 1 / 3, 1 / 2])
    assert record["merge"]["method"] == "exact" and record["merge"]["energy_kept"] == outcome.report.energy_kept
    everything = "".join((tmp_path / "m" / name).read_text() for name in ("pocketft.json", "README.md"))
    assert str(tmp_path) not in everything and "secret" not in everything
    again = merge_files([tmp_path / "m", folders[0]], tmp_path / "n", MergeSettings())
    assert [p.weight for p in again.report.parents] == pytest.approx([6 / 7, 1 / 7])


def test_adapters_of_the_same_name_are_told_apart(tmp_path: Path) -> None:
    folders = [write(tmp_path / device / "adapter", adapter(i)) for i, device in enumerate(["laptop", "phone"])]
    report = merge_files([*folders, folders[0]], tmp_path / "m", MergeSettings()).report
    assert [p.label for p in report.parents][1] == "phone/adapter"
    assert len({p.label for p in report.parents}) == 3
    assert any("same weights" in notice for notice in report.notices)


def test_the_output_is_never_one_of_the_adapters(tmp_path: Path) -> None:
    folder = write(tmp_path / "a", adapter(1))
    before = (folder / "adapter_model.safetensors").read_bytes()
    with pytest.raises(UsageError, match="one of the adapters"):
        merge_files([folder, write(tmp_path / "b", adapter(2))], folder, MergeSettings(), force=True)
    assert (folder / "adapter_model.safetensors").read_bytes() == before


@settings(max_examples=15, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.lists(st.sampled_from(["good", "nan", "other base", "pickle", "loud"]), min_size=2, max_size=5))
def test_what_should_be_refused_leaves_no_output(tmp_path: Path, kinds: list[str]) -> None:
    folders = []
    for index, kind in enumerate(kinds):
        state = adapter(index)
        if kind == "nan":
            next(iter(state.tensors.values())).b[0, 0] = float("nan")
        config = {"base_model_name_or_path": "other" if kind == "other base" else "smollm2-135m"}
        factor = 100 if kind == "loud" else 1
        folder = write(tmp_path / f"{index}", scaled(state, factor, "x"), config=config)
        if kind == "pickle":
            (folder / "adapter_model.safetensors").write_bytes(b"\x80\x04.")
        folders.append(folder)
    refused = "nan" in kinds or "pickle" in kinds or len({kind == "other base" for kind in kinds}) > 1
    try:
        merge_files(folders, tmp_path / "m", MergeSettings(), force=True)
        assert not refused
    except AdapterError:
        assert refused and not (tmp_path / "m").exists()
    finally:
        if (tmp_path / "m").exists():
            for file in (tmp_path / "m").iterdir():
                file.unlink()
            (tmp_path / "m").rmdir()
