"""Names and row orders of llama.cpp, against a file written as its converter writes it and transformers' way back."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from transformers import SmolLM3Config
from transformers.modeling_gguf_pytorch_utils import TENSOR_PROCESSORS

from pocketft.adapters.export_names import gguf_names
from pocketft.errors import UsageError
from pocketft.models.source import empty_model
from tests.tiny_models import FAMILIES, tiny_config

FUSED = {"qkv_proj": "attn_qkv", "gate_up_proj": "ffn_up"}
PLAIN = {
    "q_proj": "attn_q",
    "k_proj": "attn_k",
    "v_proj": "attn_v",
    "o_proj": "attn_output",
    "gate_proj": "ffn_gate",
    "up_proj": "ffn_up",
    "down_proj": "ffn_down",
}


@pytest.mark.parametrize("family", FAMILIES)
def test_every_linear_layer_of_every_family_has_a_place(family: str) -> None:
    config = tiny_config(family)
    names = gguf_names(config)
    for name, module in empty_model(config).named_modules():
        if isinstance(module, torch.nn.Linear) and name != "lm_head":
            last = name.rpartition(".")[2]
            layer = name.split(".")[2]
            assert names.tensor(name) == f"blk.{layer}.{ {**PLAIN, **FUSED}[last] }.weight"
    assert names.architecture == {"mistral": "llama"}.get(family, family)


@pytest.mark.parametrize("family", ["llama", "mistral"])
def test_transformers_way_back_undoes_the_order(family: str) -> None:
    config = tiny_config(family)
    names = gguf_names(config)
    processor = TENSOR_PROCESSORS["llama"](config=config.to_dict())
    for last, rows in (("q_proj", 64), ("k_proj", 32)):
        order = names.row_order(f"model.layers.1.self_attn.{last}", rows)
        assert order is not None
        weights = torch.randn(rows, 8)
        stored = weights[order].numpy()
        tensor = f"blk.1.attn_{last[0]}.weight"
        back = processor.process(weights=stored, name=tensor, tensor_key_mapping=None, parsed_parameters=None).weights
        assert np.array_equal(back, weights.numpy())
    assert names.row_order("model.layers.1.self_attn.v_proj", 32) is None


@pytest.mark.parametrize("family", ["qwen2", "qwen3", "gemma3", "phi3"])
def test_other_families_keep_their_rows(family: str) -> None:
    assert gguf_names(tiny_config(family)).row_order("model.layers.0.self_attn.q_proj", 64) is None


def test_smollm3_is_stored_as_llama_is() -> None:
    config = SmolLM3Config(
        num_hidden_layers=2, num_attention_heads=4, num_key_value_heads=2, hidden_size=64, pad_token_id=0
    )
    assert gguf_names(config).row_order("model.layers.0.self_attn.k_proj", 32) is not None


def test_an_unknown_family_and_an_unknown_layer_are_refused() -> None:
    config = tiny_config("llama")
    names = gguf_names(config)
    with pytest.raises(UsageError, match="no place"):
        names.tensor("model.layers.0.self_attn.rotary")
    config.model_type = "mamba"
    with pytest.raises(UsageError, match="mamba"):
        gguf_names(config)
