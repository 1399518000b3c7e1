"""The engine against plain PEFT + autograd on the same dequantized weights, in fp32: the loss and every LoRA
gradient.
"""

from __future__ import annotations

import copy
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import torch
from peft import LoraConfig, get_peft_model
from transformers import (
    AutoModelForCausalLM,
    Gemma3TextConfig,
    GraniteConfig,
    LlamaConfig,
    MistralConfig,
    Phi3Config,
    PretrainedConfig,
    Qwen2Config,
    Qwen3Config,
)

from pocketft.engine.batch import IGNORE, MicroBatch
from pocketft.engine.loss import LossTiles
from pocketft.engine.model import EngineModel, build_model
from pocketft.engine.skeleton import UnsupportedModel
from pocketft.engine.step import StepSettings, eval_loss, train_step
from tests.engine.memory_source import MemorySource, as_affine4, as_f32, plain_model

SMALL: dict[str, Any] = {
    "vocab_size": 101,
    "hidden_size": 64,
    "intermediate_size": 96,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 512,
    "pad_token_id": 0,
    "bos_token_id": 1,
    "eos_token_id": 2,
}

CONFIGS: dict[str, PretrainedConfig] = {
    "llama": LlamaConfig(**SMALL, tie_word_embeddings=False),
    "llama-tied-biases": LlamaConfig(**SMALL, tie_word_embeddings=True, attention_bias=True, mlp_bias=True),
    "mistral-sliding": MistralConfig(**SMALL, sliding_window=24, tie_word_embeddings=False),
    "qwen2": Qwen2Config(**SMALL, tie_word_embeddings=True),
    "qwen3": Qwen3Config(**SMALL, head_dim=32, tie_word_embeddings=False),
    "gemma3": Gemma3TextConfig(
        **SMALL,
        head_dim=32,
        query_pre_attn_scalar=32,
        sliding_window=24,
        layer_types=["sliding_attention", "full_attention", "sliding_attention"],
    ),
    "phi3": Phi3Config(**SMALL, tie_word_embeddings=False, sliding_window=None),
}
DEVICES = (
    ["cpu"] + (["cuda"] if torch.cuda.is_available() else []) + (["mps"] if torch.backends.mps.is_available() else [])
)
LORA = LoraConfig(r=4, lora_alpha=8, target_modules="all-linear", task_type="CAUSAL_LM")


@cache
def source_of(name: str, packing: str) -> MemorySource:
    torch.manual_seed(3)
    model = AutoModelForCausalLM.from_config(CONFIGS[name])
    for parameter in model.parameters():  # biases and norms away from 0 and 1, where mistakes would hide
        parameter.data += 0.1 * torch.randn_like(parameter)
    return MemorySource(model, as_affine4 if packing == "affine4" else as_f32)


def random_batch(seed: int, rows: int = 1, length: int = 150) -> MicroBatch:
    """Rows of two documents and padding on the right, a part of the labels masked."""
    generator = torch.Generator().manual_seed(seed)
    ids = torch.randint(3, SMALL["vocab_size"], (rows, length), generator=generator)
    labels = ids.clone()
    positions = torch.empty_like(ids)
    for row in range(rows):
        border, end = 40 + 7 * row, length - 5 - 11 * row
        for start, stop in ((0, border), (border, end), (end, length)):
            positions[row, start:stop] = torch.arange(stop - start)
            labels[row, start] = IGNORE
        ids[row, end:], labels[row, end:] = 0, IGNORE
    labels[torch.rand(ids.shape, generator=generator) < 0.3] = IGNORE
    return MicroBatch(ids, labels, positions)


def reference_gradients(
    name: str,
    source: MemorySource,
    batches: list[MicroBatch],
    adapter: dict[str, torch.Tensor],
    lora: LoraConfig = LORA,
) -> tuple[float, dict[str, torch.Tensor]]:
    model = get_peft_model(plain_model(CONFIGS[name], source), copy.deepcopy(lora))
    for parameter_name, parameter in model.named_parameters():
        if parameter.requires_grad:
            parameter.data.copy_(adapter[parameter_name])
    tokens = sum(batch.loss_tokens for batch in batches)
    total = 0.0
    for batch in batches:
        logits = model(input_ids=batch.input_ids, position_ids=batch.position_ids, use_cache=False).logits
        loss = torch.nn.functional.cross_entropy(
            logits.flatten(0, 1), batch.shifted_targets().flatten(), ignore_index=IGNORE, reduction="sum"
        )
        (loss / tokens).backward()
        total += float(loss)
    return total / tokens, {n: p.grad for n, p in model.named_parameters() if p.grad is not None}


def engine_model(
    name: str, source: MemorySource, residence: str, device: str = "cpu", lora: LoraConfig = LORA
) -> EngineModel:
    layers = CONFIGS[name].num_hidden_layers
    kinds: Any = {"mixed": ["dense", "packed", "streamed"]}.get(residence, [residence] * layers)
    model = build_model(CONFIGS[name], source, lora=copy.deepcopy(lora), residences=kinds, device=device)
    generator = torch.Generator().manual_seed(5)
    for _, parameter in model.lora_parameters():  # B starts at zero, which would hide every gradient of A
        parameter.data.copy_(torch.randn(parameter.shape, generator=generator) * 0.1)
    return model


def assert_same(
    model: EngineModel, batches: list[MicroBatch], name: str, source: MemorySource, settings: StepSettings
) -> None:
    adapter = {n: p.detach().cpu().clone() for n, p in model.lora_parameters()}
    expected_loss, expected = reference_gradients(name, source, batches, adapter)
    result = train_step(model, batches, settings)
    assert result.loss == pytest.approx(expected_loss, rel=1e-5)
    got = {n: p.grad.cpu() for n, p in model.lora_parameters()}
    assert got.keys() == expected.keys()
    for parameter_name, gradient in expected.items():
        error = (got[parameter_name] - gradient).norm() / gradient.norm()
        assert error < 1e-4, f"{parameter_name}: relative error {error:.2e}"


TILES = LossTiles(vocab_rows=32, tokens=50)


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("name", CONFIGS)
def test_loss_and_gradients_equal_plain_peft(name: str, device: str) -> None:
    source = source_of(name, "affine4")
    model = engine_model(name, source, "mixed", device)
    assert_same(model, [random_batch(1), random_batch(2, rows=2)], name, source, StepSettings(TILES))


@pytest.mark.parametrize("residence", ["dense", "packed", "streamed"])
@pytest.mark.parametrize("name", CONFIGS)
def test_every_residence_gives_the_same_gradients(name: str, residence: str) -> None:
    source = source_of(name, "affine4")
    model = engine_model(name, source, residence)
    assert_same(model, [random_batch(4)], name, source, StepSettings(TILES))
    for _, parameter in model.lora_parameters():
        parameter.grad = None
    assert_same(model, [random_batch(6), random_batch(7)], name, source, StepSettings(TILES))  # buffers reused


@pytest.mark.parametrize("name", ["llama", "llama-tied-biases", "gemma3"])
def test_rows_of_embedding_and_head_read_as_needed_change_no_bit(name: str) -> None:
    source, batches = source_of(name, "affine4"), [random_batch(8), random_batch(9, rows=2)]
    steps = []
    for stream_ends in (False, True):
        model = build_model(CONFIGS[name], source, lora=copy.deepcopy(LORA), stream_ends=stream_ends)
        losses = train_step(model, batches, StepSettings(TILES)).loss, eval_loss(model, batches, StepSettings(TILES))
        steps.append((losses, [p.grad for _, p in model.lora_parameters()]))
    (losses, gradients), (losses_streamed, gradients_streamed) = steps
    assert losses == losses_streamed
    assert all(torch.equal(a, b) for a, b in zip(gradients, gradients_streamed, strict=True))


@pytest.mark.parametrize("name", ["llama-tied-biases", "gemma3"])
@pytest.mark.parametrize("keep_attention", [False, True])
def test_kept_graphs_change_nothing(name: str, keep_attention: bool) -> None:
    source, batches = source_of(name, "f32"), [random_batch(8, rows=3), random_batch(9)]
    settings = StepSettings(TILES, kept_blocks=2, keep_attention=keep_attention)
    assert_same(engine_model(name, source, "mixed"), batches, name, source, settings)


def test_block_inputs_in_a_file_change_no_bit(tmp_path: Path) -> None:
    source, batches = source_of("qwen3", "affine4"), [random_batch(8), random_batch(9, rows=2)]
    gradients = []
    with (tmp_path / "inputs").open("w+b") as file:
        for spill_to in (None, file.fileno(), file.fileno()):
            model = engine_model("qwen3", source, "mixed")
            train_step(model, batches, StepSettings(TILES, kept_blocks=1, spill_to=spill_to))
            gradients.append([p.grad for _, p in model.lora_parameters()])
    for one in gradients[1:]:
        assert all(torch.equal(a, b) for a, b in zip(gradients[0], one, strict=True))


def test_dropout_does_not_depend_on_how_the_step_is_carried_out() -> None:
    source = source_of("llama", "f32")
    lora = LoraConfig(r=4, lora_alpha=8, lora_dropout=0.3, target_modules="all-linear", task_type="CAUSAL_LM")
    one, two = random_batch(20), random_batch(21)
    both = MicroBatch(*(torch.cat([getattr(one, f), getattr(two, f)]) for f in ("input_ids", "labels", "position_ids")))
    found = []
    for batches, kept, seed in (([one, two], 0, 7), ([one, two], 3, 7), ([both], 1, 7), ([both], 1, 8)):
        model = engine_model("llama", source, "mixed", lora=lora)
        result = train_step(model, batches, StepSettings(TILES, kept_blocks=kept, dropout_seed=seed))
        gradients = [p.grad for _, p in model.lora_parameters() if p.grad is not None]
        found.append((result.loss, torch.cat([g.flatten() for g in gradients])))
    for loss, gradient in found[1:3]:
        assert loss == pytest.approx(found[0][0], rel=1e-6)
        torch.testing.assert_close(gradient, found[0][1], rtol=1e-4, atol=1e-6)
    assert found[3][0] != pytest.approx(found[0][0], rel=1e-6)


def test_adapters_on_some_blocks_only_train_and_need_no_gradient_below() -> None:
    source, batches = source_of("qwen2", "f32"), [random_batch(22)]
    lora = LoraConfig(r=4, lora_alpha=8, target_modules=r".*layers\.1\.self_attn\.(q|v)_proj", task_type="CAUSAL_LM")
    model = engine_model("qwen2", source, "mixed", lora=lora)
    assert model.first_adapted == 1
    adapter = {n: p.detach().clone() for n, p in model.lora_parameters()}
    expected_loss, expected = reference_gradients("qwen2", source, batches, adapter, lora)
    assert train_step(model, batches, StepSettings(TILES)).loss == pytest.approx(expected_loss, rel=1e-5)
    for name, parameter in model.lora_parameters():
        assert parameter.grad is not None
        assert (parameter.grad - expected[name]).norm() / expected[name].norm() < 1e-4


def test_a_streamed_block_is_read_twice_a_step_and_no_more(monkeypatch: pytest.MonkeyPatch) -> None:
    source = source_of("llama", "affine4")
    model = engine_model("llama", source, "streamed")
    train_step(model, [random_batch(23), random_batch(24)], StepSettings(TILES))
    reads: list[str] = []
    read_block = MemorySource.read_block
    monkeypatch.setattr(
        MemorySource,
        "read_block",
        lambda self, name, buffer=None: (reads.append(name), read_block(self, name, buffer))[1],
    )
    train_step(model, [random_batch(23), random_batch(24)], StepSettings(TILES))
    assert len(reads) <= 2 * SMALL["num_hidden_layers"]


def test_models_that_do_more_than_their_layers_are_refused() -> None:
    granite = GraniteConfig(**SMALL, embedding_multiplier=3.0, logits_scaling=2.0)
    torch.manual_seed(0)
    for config in (granite, GraniteConfig(**SMALL, logits_scaling=2.0)):
        source = MemorySource(AutoModelForCausalLM.from_config(config), as_f32)
        with pytest.raises(UnsupportedModel):
            build_model(config, source, lora=None)


def test_the_engines_model_gives_the_logits_of_the_plain_one() -> None:
    for name in CONFIGS:
        source = source_of(name, "affine4")
        model = engine_model(name, source, "mixed")
        ids = random_batch(10).input_ids[:, :60]
        with torch.no_grad(), model.adapter_disabled():
            got = model.model(ids).logits
            torch.testing.assert_close(got, plain_model(CONFIGS[name], source)(ids).logits, rtol=1e-4, atol=1e-5)
            assert not torch.allclose(got, plain_model(CONFIGS[name], source)(ids + 1).logits)


def test_generation_with_a_cache_equals_the_plain_models() -> None:
    for name in ("llama", "gemma3"):
        source = source_of(name, "f32")
        model = engine_model(name, source, "streamed")
        ids = random_batch(11).input_ids[:, :40]
        with model.adapter_disabled():
            got = model.model.generate(input_ids=ids, max_new_tokens=20, do_sample=False)
        expected = plain_model(CONFIGS[name], source).generate(input_ids=ids, max_new_tokens=20, do_sample=False)
        assert got.tolist() == expected.tolist()


def test_evaluation_equals_the_training_loss_and_the_adapter_can_be_left_out() -> None:
    source = source_of("qwen3", "affine4")
    model = engine_model("qwen3", source, "mixed")
    batches = [random_batch(12), random_batch(13, rows=2)]
    loss_sum, tokens = eval_loss(model, batches, StepSettings(TILES))
    result = train_step(model, batches, StepSettings(TILES))
    assert (loss_sum / tokens, tokens) == (pytest.approx(result.loss, rel=1e-6), result.loss_tokens)
    with model.adapter_disabled():
        base_sum, _ = eval_loss(model, batches, StepSettings(TILES))
    zero = {n: torch.zeros_like(p) for n, p in model.lora_parameters()}
    expected, _ = reference_gradients("qwen3", source, batches, zero)
    assert base_sum / tokens == pytest.approx(expected, rel=1e-5)
