"""Tiny random models to test on: transformers configurations, safetensors folders, GGUF files, a real tokenizer.

Everything is a few hundred kB and made in well under a second. A GGUF is written the way llama.cpp's converter does
(rows of q and k reordered for Llama, one added to Gemma's norms), so reading it back has something to undo.
"""

from __future__ import annotations

import string
from pathlib import Path
from typing import Any

import gguf
import numpy as np
import torch
from gguf import GGMLQuantizationType, quants
from tokenizers import Tokenizer, decoders, models, pre_tokenizers
from transformers import (
    AutoModelForCausalLM,
    Gemma3TextConfig,
    LlamaConfig,
    MistralConfig,
    Phi3Config,
    PretrainedConfig,
    PreTrainedTokenizerFast,
    Qwen2Config,
    Qwen3Config,
)

FAMILIES = ("llama", "mistral", "qwen2", "qwen3", "gemma3", "phi3")

SPECIALS = ("<pad>", "<eos>", "<bos>", "<unk>")
PAD, EOS, BOS, UNK = range(4)
MERGES = (("t", "h"), ("th", "e"), ("Ġ", "the"), ("a", "n"), ("an", "d"))
CHAT_TEMPLATE = (
    "{% for message in messages %}<bos>{{ message['role'] }}\n{{ message['content'] }}<eos>\n{% endfor %}"
    "{% if add_generation_prompt %}<bos>assistant\n{% endif %}"
)

# Where in a block the float16 scales lie: the rest of a block of these types may be any bytes.
_SCALE_BYTES = {
    "Q2_K": (80, 82), "Q3_K": (108,), "Q4_K": (0, 2), "Q5_K": (0, 2), "Q6_K": (208,), "IQ4_NL": (0,), "IQ4_XS": (0,),
}  # fmt: skip


def tiny_config(family: str, *, tied: bool = True, hidden_size: int = 64, **changes: Any) -> PretrainedConfig:
    """A configuration of one of FAMILIES with two layers (Gemma 3: seven, six sliding and one global)."""
    shape: dict[str, Any] = {
        "vocab_size": len(vocabulary()),
        "hidden_size": hidden_size,
        "intermediate_size": 2 * hidden_size,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "max_position_embeddings": 256,
        "tie_word_embeddings": tied,
        "pad_token_id": PAD,
        "bos_token_id": BOS,
        "eos_token_id": EOS,
    }
    if family == "gemma3":
        shape |= {"num_hidden_layers": 7, "head_dim": hidden_size // 4, "sliding_window": 8}
    if family == "qwen3":
        shape |= {"head_dim": hidden_size // 4}
    classes = {
        "llama": LlamaConfig,
        "mistral": MistralConfig,
        "qwen2": Qwen2Config,
        "qwen3": Qwen3Config,
        "gemma3": Gemma3TextConfig,
        "phi3": Phi3Config,
    }
    config: PretrainedConfig = classes[family](**{**shape, **changes})
    return config


def tiny_model(config: PretrainedConfig, seed: int = 0) -> Any:
    """A random float32 model in which nothing is zero or one by default: norms and biases are random too."""
    torch.manual_seed(seed)
    model = AutoModelForCausalLM.from_config(config, dtype=torch.float32)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if parameter.dim() == 1:
                parameter.copy_(torch.randn_like(parameter) * 0.1 + ("norm" in name))
            else:
                parameter.copy_(torch.randn_like(parameter) * 0.05)
    model.tie_weights()
    return model.eval()


def vocabulary() -> dict[str, int]:
    """Special tokens, every byte, a few merges; padded to a multiple of 8."""
    tokens = [*SPECIALS, *sorted(pre_tokenizers.ByteLevel.alphabet()), *("".join(pair) for pair in MERGES)]
    tokens += [f"<unused{i}>" for i in range(-len(tokens) % 8)]
    return {token: number for number, token in enumerate(tokens)}


def tiny_tokenizer() -> PreTrainedTokenizerFast:
    tokenizer = Tokenizer(models.BPE(vocab=vocabulary(), merges=list(MERGES)))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        pad_token="<pad>",
        eos_token="<eos>",
        bos_token="<bos>",
        unk_token="<unk>",
        chat_template=CHAT_TEMPLATE,
    )


def save_tiny_folder(
    folder: Path,
    config: PretrainedConfig | None = None,
    *,
    dtype: torch.dtype = torch.bfloat16,
    seed: int = 0,
    max_shard_size: str = "5GB",
) -> Path:
    """A model folder as transformers saves it: safetensors, configuration, tokenizer."""
    model = tiny_model(config or tiny_config("llama"), seed).to(dtype)
    model.save_pretrained(folder, max_shard_size=max_shard_size)
    tiny_tokenizer().save_pretrained(folder)
    return folder


def write_tiny_gguf(
    path: Path,
    quantization: str = "Q4_1",
    *,
    family: str = "llama",
    tied: bool = True,
    hidden_size: int | None = None,
    seed: int = 0,
) -> Path:
    """A GGUF with matrices of one type; types that the gguf package cannot quantize get random blocks."""
    block_weights = gguf.GGML_QUANT_SIZES[GGMLQuantizationType[quantization]][0]
    hidden = hidden_size or max(64, block_weights)
    config = tiny_config(family, tied=tied, hidden_size=hidden, rms_norm_eps=1e-5)
    model = tiny_model(config, seed)
    architecture = {"llama": "llama", "qwen2": "qwen2", "gemma3": "gemma3"}[family]
    writer = gguf.GGUFWriter(path, architecture)
    _write_shape(writer, config, family)
    _write_tokenizer(writer, family)
    names = gguf.get_tensor_name_map(
        next(arch for arch, name in gguf.MODEL_ARCH_NAMES.items() if name == architecture), config.num_hidden_layers
    )
    random = np.random.default_rng(seed)
    for name, parameter in model.named_parameters():
        stem, _, suffix = name.rpartition(".")
        values = _as_llama_cpp(parameter.detach().numpy(), name, config, family)
        if values.ndim == 1:
            writer.add_tensor(f"{names.get_name(stem)}.{suffix}", values)
        else:
            kind = GGMLQuantizationType[quantization]
            raw = quantized_rows(values, quantization, random)
            writer.add_tensor(f"{names.get_name(stem)}.{suffix}", raw, raw_dtype=kind)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path


def quantized_rows(values: np.ndarray, quantization: str, random: np.random.Generator) -> np.ndarray:
    """Rows of `values` in a GGUF type, as the bytes (or floats) that gguf's writer wants."""
    if quantization not in _SCALE_BYTES:
        return quants.quantize(np.ascontiguousarray(values), GGMLQuantizationType[quantization])
    weights, size = gguf.GGML_QUANT_SIZES[GGMLQuantizationType[quantization]]
    blocks = random.integers(0, 256, (values.shape[0], values.shape[1] // weights, size), dtype=np.uint8)
    for start in _SCALE_BYTES[quantization]:
        scales = (random.standard_normal(blocks.shape[:2]) * 1e-3).astype(np.float16)
        blocks[..., start : start + 2] = scales[..., None].view(np.uint8)
    return blocks.reshape(values.shape[0], -1)


def _as_llama_cpp(values: np.ndarray, name: str, config: PretrainedConfig, family: str) -> np.ndarray:
    if family == "gemma3" and name.endswith("norm.weight"):
        return values + np.float32(1)
    if family == "llama" and (".q_proj." in name or ".k_proj." in name):
        heads = config.num_attention_heads if ".q_proj." in name else config.num_key_value_heads
        halves = values.reshape(heads, 2, values.shape[0] // heads // 2, *values.shape[1:])
        return halves.swapaxes(1, 2).reshape(values.shape)
    return values


def _write_shape(writer: gguf.GGUFWriter, config: PretrainedConfig, family: str) -> None:
    writer.add_name("tiny")
    writer.add_license("apache-2.0")
    writer.add_context_length(config.max_position_embeddings)
    writer.add_embedding_length(config.hidden_size)
    writer.add_block_count(config.num_hidden_layers)
    writer.add_feed_forward_length(config.intermediate_size)
    writer.add_head_count(config.num_attention_heads)
    writer.add_head_count_kv(config.num_key_value_heads)
    writer.add_layer_norm_rms_eps(config.rms_norm_eps)
    writer.add_rope_freq_base(10000.0)
    writer.add_vocab_size(config.vocab_size)
    if family == "gemma3":
        writer.add_key_length(config.head_dim)
        writer.add_value_length(config.head_dim)
        writer.add_sliding_window(config.sliding_window)


def _write_tokenizer(writer: gguf.GGUFWriter, family: str) -> None:
    if family == "gemma3":  # SentencePiece: scores instead of merges, bytes spelled out
        count = len(vocabulary())
        tokens = [*SPECIALS, *(f"<0x{byte:02X}>" for byte in range(256)), "▁", *string.ascii_letters][:count]
        kinds = [gguf.TokenType.CONTROL] * 4 + [gguf.TokenType.BYTE] * 256
        kinds += [gguf.TokenType.NORMAL] * (count - len(kinds))
        writer.add_tokenizer_model("llama")
        writer.add_token_scores([-float(i) for i in range(count)])
    else:
        tokens = list(vocabulary())
        kinds = [gguf.TokenType.CONTROL] * 4 + [gguf.TokenType.NORMAL] * (len(tokens) - 4)
        writer.add_tokenizer_model("gpt2")
        writer.add_token_merges([" ".join(pair) for pair in MERGES])
    writer.add_token_list(tokens)
    writer.add_token_types(kinds)
    writer.add_pad_token_id(PAD)
    writer.add_eos_token_id(EOS)
    writer.add_bos_token_id(BOS)
    writer.add_unk_token_id(UNK)
    writer.add_chat_template(CHAT_TEMPLATE)
