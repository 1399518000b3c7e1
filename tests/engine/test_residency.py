"""Where blocks live: a change that is refused memory loses no block."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor
from transformers import AutoModelForCausalLM, LlamaConfig

from pocketft.engine.model import EngineModel, build_model
from pocketft.engine.residency import RESIDENCES, Residence
from tests.engine.memory_source import MemorySource, as_affine4

CONFIG = LlamaConfig(
    vocab_size=64,
    hidden_size=32,
    intermediate_size=64,
    num_hidden_layers=3,
    num_attention_heads=2,
    num_key_value_heads=1,
)


class ShortOfMemory(MemorySource):
    """Refuses the next `refusals` reads."""

    refusals = 0

    def read_block(self, name: str, buffer: Tensor | None = None):  # type: ignore[no-untyped-def]
        if self.refusals:
            self.refusals -= 1
            raise MemoryError
        return super().read_block(name, buffer)


def make(residence: Residence) -> tuple[EngineModel, ShortOfMemory]:
    torch.manual_seed(0)
    source = ShortOfMemory(AutoModelForCausalLM.from_config(CONFIG), as_affine4)
    return build_model(CONFIG, source, lora=None, residences=[residence] * 3), source


def logits(model: EngineModel) -> Tensor:
    with torch.no_grad():
        return model.model(torch.arange(8)[None]).logits  # type: ignore[no-any-return]


@pytest.mark.parametrize("before", RESIDENCES)
@pytest.mark.parametrize("after", ["dense", "packed"])
def test_a_block_whose_move_is_refused_memory_is_read_at_its_next_use(before: Residence, after: Residence) -> None:
    expected = logits(make(before)[0])
    model, source = make(before)
    source.refusals = 1
    with pytest.raises(MemoryError):
        model.residency.move(1, after)
    assert torch.equal(logits(model), expected)
    model.close()
