"""The shared start: one initialisation for all, valid in PEFT, changing nothing yet."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from peft import PeftModel
from transformers import LlamaConfig, LlamaForCausalLM

from pocketft.adapters.folder import read_adapter
from pocketft.adapters.group import write_group
from pocketft.adapters.merge import merge_states
from pocketft.adapters.merge_settings import MergeSettings
from pocketft.adapters.state import Factors
from pocketft.errors import UsageError
from pocketft.recipe import Recipe, load_recipe
from tests.adapters.build import BASE, dense, distance, holding, mean

TINY = LlamaConfig(
    hidden_size=16,
    intermediate_size=24,
    num_hidden_layers=2,
    num_attention_heads=2,
    num_key_value_heads=1,
    vocab_size=32,
)


def recipe(*overrides: str) -> Recipe:
    return load_recipe(None, ["lora.r=4", *overrides])


def test_the_start_depends_on_the_seed_alone(tmp_path: Path) -> None:
    torch.manual_seed(1)
    first = write_group(tmp_path / "a", TINY, BASE, recipe())
    torch.manual_seed(2)
    second = write_group(tmp_path / "b", TINY, BASE, recipe())
    other = write_group(tmp_path / "c", TINY, BASE, recipe("training.seed=7"))
    assert first.info.sha256 == second.info.sha256 != other.info.sha256
    assert first.info.provenance["group"] == second.info.provenance["group"] != other.info.provenance["group"]
    assert first.info.base == BASE
    assert len(first.info.modules) == 14


def test_it_loads_in_peft_and_changes_nothing_yet(tmp_path: Path) -> None:
    write_group(tmp_path / "a", TINY, BASE, recipe("lora.use_rslora=true"))
    torch.manual_seed(0)
    base = LlamaForCausalLM(TINY)
    ids = torch.arange(10)[None]
    with torch.no_grad():
        wanted = base(ids).logits
        loaded = PeftModel.from_pretrained(base, str(tmp_path / "a"))
        assert torch.equal(loaded(ids).logits, wanted)
    assert loaded.peft_config["default"].use_rslora is True
    factors = read_adapter(tmp_path / "a").factors("model.layers.0.self_attn.q_proj")
    assert factors.a.abs().max() > 0 and factors.b.abs().max() == 0
    assert factors.scaling == 8  # 16 / sqrt(4)


def test_its_recipe_can_be_read_back(tmp_path: Path) -> None:
    chosen = recipe("training.seed=3", "lora.target_modules=q_proj,v_proj")
    folder = write_group(tmp_path / "a", TINY, BASE, chosen)
    assert load_recipe(tmp_path / "a" / "recipe.yaml") == chosen
    assert len(folder.info.modules) == 4


def test_adapters_grown_from_it_with_a_frozen_merge_exactly_by_ffa(tmp_path: Path) -> None:
    start = write_group(tmp_path / "a", TINY, BASE, recipe())
    grown = []
    for seed in range(3):
        torch.manual_seed(seed)
        factors = {name: start.factors(name) for name in start.info.modules}
        grown.append(
            holding({n: Factors(f.a, torch.randn_like(f.b), f.scaling) for n, f in factors.items()}, f"{seed}")
        )
    merged = merge_states(grown, MergeSettings(method="ffa", clip="none"))
    assert merged.report.rank == 4
    assert distance(dense(merged), mean(grown)) < 1e-5


def test_targets_that_are_not_there_are_bad_usage(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="target_modules"):
        write_group(tmp_path / "a", TINY, BASE, recipe("lora.target_modules=nothing_proj"))
    assert not (tmp_path / "a").exists()
