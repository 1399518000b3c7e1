"""Documents packed in rows lose and learn nothing: each has the loss that it has alone (fp32)."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from pocketft.data.batching import Row, collate
from pocketft.data.packing import Piece, pack
from pocketft.engine.batch import MicroBatch
from pocketft.engine.step import StepSettings, eval_loss, token_losses, train_step
from tests.engine.memory_source import plain_model
from tests.engine.test_parity import CONFIGS, SMALL, TILES, engine_model, source_of

ROW_TOKENS = 48
LENGTHS = st.lists(st.integers(2, ROW_TOKENS), min_size=1, max_size=9)


def documents(lengths: list[int], seed: int) -> list[Row]:
    draw = np.random.default_rng(seed)
    rows = []
    for length in lengths:
        ids = draw.integers(3, SMALL["vocab_size"], length)
        labels = np.where(draw.random(length) < 0.2, -100, ids)
        labels[0], labels[-1] = -100, ids[-1]
        rows.append(Row(ids, labels, np.arange(length)))
    return rows


def packed(rows: list[Row]) -> list[Row]:
    """Rows of the documents that the packer puts together."""
    pieces = [Piece(index, len(row.input_ids), len(row.input_ids), False, 1) for index, row in enumerate(rows)]
    return [
        Row(*(np.concatenate([getattr(rows[piece.start], name) for piece in one]) for name in names))
        for one in pack(pieces, ROW_TOKENS)
        if (names := ("input_ids", "labels", "position_ids"))
    ]


def batches(rows: list[Row], size: int) -> list[MicroBatch]:
    return [collate(rows[start : start + size], 0) for start in range(0, len(rows), size)]


@pytest.mark.parametrize("name", ["llama", "gemma3", "mistral-sliding"])
@settings(max_examples=12, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(lengths=LENGTHS, micro_batch=st.integers(1, 3), seed=st.integers(0, 9))
def test_a_packed_batch_has_the_loss_of_its_documents_one_by_one(
    name: str, lengths: list[int], micro_batch: int, seed: int
) -> None:
    model = engine_model(name, source_of(name, "f32"), "dense")
    alone = documents(lengths, seed)
    one_by_one = [eval_loss(model, [collate([row], 0)], StepSettings(TILES)) for row in alone]
    loss_sum, tokens = eval_loss(model, batches(packed(alone), micro_batch), StepSettings(TILES))
    assert tokens == sum(count for _, count in one_by_one)
    assert loss_sum / tokens == pytest.approx(sum(loss for loss, _ in one_by_one) / tokens, abs=1e-5)


def test_a_packed_step_has_the_gradient_of_its_documents_one_by_one() -> None:
    alone = documents([30, 5, 12, 44, 20, 9], 1)
    gradients = []
    for rows in (alone, packed(alone)):
        model = engine_model("llama", source_of("llama", "f32"), "dense")
        train_step(model, [collate([row], 0) for row in rows], StepSettings(TILES))
        gradients.append([parameter.grad for _, parameter in model.lora_parameters()])
    for one, other in zip(*gradients, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("name", ["llama", "gemma3"])
def test_losses_token_by_token_and_what_the_model_would_say_are_the_plain_models(name: str) -> None:
    source = source_of(name, "affine4")
    model = engine_model(name, source, "mixed")
    rows = documents([40, 33, 12], 2)
    given = batches(packed(rows), 2)
    with model.adapter_disabled():
        found = token_losses(model, given, StepSettings(TILES))
    plain = plain_model(CONFIGS[name], source)
    for batch, (losses, greedy) in zip(given, found, strict=True):
        logits = plain(input_ids=batch.input_ids, position_ids=batch.position_ids, use_cache=False).logits.float()
        targets = batch.shifted_targets()
        mask = targets != -100
        expected = torch.nn.functional.cross_entropy(logits[mask], targets[mask], reduction="none")
        torch.testing.assert_close(losses, expected.detach(), rtol=1e-4, atol=1e-5)
        assert (greedy == (logits[mask].argmax(-1) == targets[mask])).all()
        loss_sum, count = 0.0, 0
        with model.adapter_disabled():
            loss_sum, count = eval_loss(model, [batch], StepSettings(TILES))
        assert (float(losses.sum()), len(losses)) == (pytest.approx(loss_sum, rel=1e-6), count)
