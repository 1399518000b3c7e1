"""The bridge to PEFT: our adapter layer is one of PEFT's own, so configuration, initialisation, names and file format
are PEFT's.

Knows PEFT and `linear.py`; nothing of where weights live.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from peft import LoraConfig, PeftModel, get_peft_model
from peft.tuners.lora import LoraLayer
from torch import Tensor, nn

from pocketft.engine.linear import FrozenLinear, Lora

ADAPTER = "default"


class LoraFrozenLinear(nn.Module, LoraLayer):
    """What PEFT puts in place of a targeted FrozenLinear: holds A and B, leaves the product to the layer's group."""

    def __init__(
        self, base_layer: FrozenLinear, adapter_name: str, config: LoraConfig, r: int, lora_alpha: int, **kwargs: Any
    ) -> None:
        super().__init__()
        LoraLayer.__init__(self, base_layer, **kwargs)
        self._active_adapter = adapter_name
        self.update_layer(adapter_name, r, lora_alpha=lora_alpha, config=config)
        a: Any = self.lora_A[adapter_name].weight
        b: Any = self.lora_B[adapter_name].weight
        base_layer.lora = Lora(a, b, self.scaling[adapter_name], config.lora_dropout)

    def forward(self, x: Tensor, *args: Any, **kwargs: Any) -> Tensor:
        return self.base_layer(x)


def attach_lora(skeleton: nn.Module, config: LoraConfig, seed: int) -> PeftModel:
    """Wrap `skeleton`, whose linears are FrozenLinear, in PEFT. Initial values depend on `seed` alone.
    As PEFT does, writes what it found into `config`: the names of the targets.

    Raises ValueError, with PEFT's words, when the targets name no layer of the model.
    """
    config.base_model_name_or_path = None  # else PEFT warns that the model goes by another name here
    config._register_custom_module({FrozenLinear: LoraFrozenLinear})
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = get_peft_model(skeleton, config, adapter_name=ADAPTER)
    for name, module in model.named_modules():
        if isinstance(module, LoraLayer) and not isinstance(module, LoraFrozenLinear):
            raise ValueError(f"adapters on {name} ({type(module).__name__}) are not supported")
    return model


def lora_parameters(model: nn.Module) -> list[tuple[str, nn.Parameter]]:
    """Trainable fp32 masters in a stable order."""
    return [(name, p) for name, p in model.named_parameters() if p.requires_grad]


@contextmanager
def without_adapter(layers: list[FrozenLinear]) -> Iterator[None]:
    """The base model alone, for as long as the context lasts."""
    groups = {layer.group for layer in layers if layer.group is not None}
    before = {group: group.adapter_enabled for group in groups}
    for group in groups:
        group.adapter_enabled = False
    try:
        yield
    finally:
        for group, enabled in before.items():
            group.adapter_enabled = enabled
