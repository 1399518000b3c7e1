"""The model as the rest of pocketft holds it: transformers' model with PEFT's adapter over weights that come and go.

Works as an ordinary model for inference (`model(input_ids)`, `model.generate(...)`): each block's weights are bound
just before the block runs. Training goes through `step.py`, block by block. Knows no files and no recipes.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from peft import LoraConfig, get_peft_model_state_dict, set_peft_model_state_dict
from torch import Tensor, nn
from transformers import PretrainedConfig

from pocketft.engine.batch import MicroBatch
from pocketft.engine.linear import LinearGroup
from pocketft.engine.lora import attach_lora, lora_parameters, without_adapter
from pocketft.engine.packed import Rows
from pocketft.engine.residency import BlockResidency, Residence
from pocketft.engine.skeleton import build_skeleton, call_arguments
from pocketft.engine.weights import WeightSource


def build_model(
    config: PretrainedConfig,
    source: WeightSource,
    *,
    lora: LoraConfig | None,
    residences: Sequence[Residence] | None = None,
    dtype: torch.dtype = torch.float32,
    device: torch.device | str = "cpu",
    seed: int = 0,
    stream_ends: bool = False,
) -> EngineModel:
    """Build the frozen base with a fresh adapter (or none). `residences` has one entry per block; all dense if None.

    With `stream_ends`, rows of the embedding and the head are read from `source` when they are used.

    The adapter's initial values depend on `seed` alone. Raises UnsupportedModel (a ValueError) for architectures whose
    mathematics the engine does not carry, and ValueError when `lora` targets no layer.
    """
    return EngineModel(config, source, lora, residences, dtype, torch.device(device), seed, stream_ends)


class EngineModel:
    """A frozen base whose blocks are bound in turn, and the fp32 masters of its adapter."""

    def __init__(
        self,
        config: PretrainedConfig,
        source: WeightSource,
        lora: LoraConfig | None,
        residences: Sequence[Residence] | None,
        dtype: torch.dtype,
        device: torch.device,
        seed: int,
        stream_ends: bool,
    ) -> None:
        self.dtype, self.device = dtype, device
        self._skeleton = build_skeleton(config, source, dtype, device, stream_ends)
        self.model: nn.Module = self._skeleton.model
        if lora is not None:
            self.model = attach_lora(self._skeleton.model, lora, seed).eval()
        blocks = self._skeleton.blocks
        self.residency = BlockResidency(source, blocks, residences or ["dense"] * len(blocks), dtype, device)
        for index, layer in enumerate(self.layers):
            layer.register_forward_pre_hook(self._bind_on_use(index))
        adapted = (i for i, block in enumerate(blocks) if any(m.lora for w in block.groups for m in w.group.members))
        self.first_adapted = next(adapted, len(blocks))  # no gradient is needed below it

    @property
    def layers(self) -> tuple[nn.Module, ...]:
        return self._skeleton.layers

    @property
    def norm(self) -> nn.Module:
        norm: nn.Module = self._skeleton.decoder.norm
        return norm

    @property
    def head(self) -> Rows:
        return self._skeleton.head.packed

    def block_end(self, index: int) -> LinearGroup | None:
        """The group whose product nobody needs when block `index` is computed again for its gradient."""
        return self._skeleton.block_ends[index]

    def embed(self, batch: MicroBatch) -> Tensor:
        """(B, S, d) in the compute dtype."""
        with torch.no_grad():
            return self._skeleton.embedding(batch.input_ids.to(self.device))

    def call_arguments(self, embeds: Tensor, batch: MicroBatch) -> list[dict[str, Any]]:
        """What each block is to be called with for this micro-batch."""
        return call_arguments(self._skeleton, embeds, batch.position_ids.to(self.device))

    def lora_parameters(self) -> list[tuple[str, nn.Parameter]]:
        return lora_parameters(self.model)

    @contextmanager
    def adapter_disabled(self) -> Iterator[None]:
        with without_adapter(self._skeleton.linears):
            yield

    def adapter_state(self) -> dict[str, Tensor]:
        """The adapter under PEFT's names, as copies on the CPU."""
        state = get_peft_model_state_dict(self.model, save_embedding_layers=False)
        return {name: tensor.detach().to("cpu", copy=True).contiguous() for name, tensor in state.items()}

    def load_adapter_state(self, state: dict[str, Tensor]) -> None:
        """Raises ValueError when `state` is not this adapter: names or shapes differ."""
        own = get_peft_model_state_dict(self.model, save_embedding_layers=False)
        expected = {name: tensor.shape for name, tensor in own.items()}
        given = {name: tensor.shape for name, tensor in state.items()}
        if expected != given:
            odd = sorted(set(expected.items()) ^ set(given.items()))[0][0]
            raise ValueError(f"adapter does not fit the model: {odd}")
        set_peft_model_state_dict(self.model, state)

    def set_dropout_seeds(self, index: int, seeds: tuple[int, ...]) -> None:
        """For block `index`: one seed per row of the batch names the masks of a forward pass and of its repetition.
        No seed switches dropout off.
        """
        for weights in self._skeleton.blocks[index].groups:
            weights.group.dropout_seeds = seeds

    def forget_pass(self) -> None:
        """After a pass that was broken off: let go of what it left behind."""
        for block in self._skeleton.blocks:
            for weights in block.groups:
                weights.group.forget()

    def close(self) -> None:
        self.residency.close()

    def _bind_on_use(self, index: int) -> Any:
        def bind(_module: nn.Module, _inputs: Any) -> None:
            self.residency.bind_in_turn(index)

        return bind
