"""What llama.cpp calls a layer, and in which order it keeps its rows.

Names are those of the gguf package's own tables. Rows: llama.cpp rotates neighbouring pairs of a head's dimensions
where transformers rotates its first half against its second, so for families of the Llama kind the rows of q and k are
stored with the two halves of every head interleaved. Which family is stored how is a fact about llama.cpp's converter;
one that is not listed is refused, as a wrong order would run and be wrong in silence.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from pocketft.errors import UsageError

if TYPE_CHECKING:
    from transformers import PretrainedConfig

# transformers' model_type -> llama.cpp's architecture, and whether the rows of q and k are interleaved.
_FAMILIES = {
    "llama": ("llama", True),
    "mistral": ("llama", True),
    "smollm3": ("smollm3", True),
    "qwen2": ("qwen2", False),
    "qwen3": ("qwen3", False),
    "gemma3_text": ("gemma3", False),
    "gemma3": ("gemma3", False),
    "phi3": ("phi3", False),
}


@dataclass(frozen=True)
class GgufNames:
    """Layers of one model in llama.cpp's words. `architecture` is what `general.architecture` says."""

    architecture: str
    heads: int
    key_value_heads: int
    interleaved: bool
    table: Any  # gguf's TensorNameMap

    def tensor(self, module: str) -> str:
        """ "model.layers.0.self_attn.q_proj" -> "blk.0.attn_q.weight". Raises UsageError where there is none."""
        name = self.table.get_name(module)
        if name is None:
            raise UsageError(
                f"llama.cpp has no place for an adapter of {module:.100} in {self.architecture} models; "
                "export it with --to merged or --to peft"
            )
        return f"{name}.weight"

    def row_order(self, module: str, rows: int) -> Tensor | None:
        """llama.cpp's rows as numbers of transformers' rows; None where both keep the same order."""
        last = module.rpartition(".")[2]
        if not self.interleaved or last not in ("q_proj", "k_proj"):
            return None
        heads = self.heads if last == "q_proj" else self.key_value_heads
        return torch.arange(rows).view(heads, 2, rows // heads // 2).transpose(1, 2).reshape(-1)


def gguf_names(config: PretrainedConfig) -> GgufNames:
    """The names for a model of `config`. Raises UsageError for a family whose storage is not known."""
    import gguf

    family = _FAMILIES.get(config.model_type)
    if family is None:
        raise UsageError(
            f"how llama.cpp stores {config.model_type} models is not known here, so no GGUF can be written for them; "
            "export with --to merged or --to peft, which transformers takes"
        )
    name, interleaved = family
    architecture = next(number for number, known in gguf.MODEL_ARCH_NAMES.items() if known == name)
    heads = config.num_attention_heads
    return GgufNames(
        architecture=name,
        heads=heads,
        key_value_heads=getattr(config, "num_key_value_heads", None) or heads,
        interleaved=interleaved,
        table=gguf.get_tensor_name_map(architecture, config.num_hidden_layers),
    )
