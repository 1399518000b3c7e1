"""A local `.gguf` file as a source: its own quantized rows under the names of the transformers model.

Configuration, tokenizer, tensor names and the changes llama.cpp makes on conversion (rows of q and k reordered, one
added to Gemma's norms) are transformers' own GGUF support. What that support does to whole tensors is found out by
letting it work on row numbers, and the same reordering is then applied to packed rows, which is exact. Needs the header
check of `gguf_file.py` to have passed: transformers trusts the file.
"""

from __future__ import annotations

import gc
import struct
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from pocketft.errors import ModelError
from pocketft.models.gguf_file import GgufFile
from pocketft.models.layout import Layout
from pocketft.models.source import ModelLayout, SourceTensor, into_blocks, model_layout

# Held by the file for llama.cpp alone: the same numbers are in the configuration.
_NOT_WEIGHTS = ("rope_freqs.weight", "rope_factors_long.weight", "rope_factors_short.weight")


def save_config_and_tokenizer(path: Path, folder: Path) -> Any:
    """Write config.json, generation_config.json and the tokenizer's files to `folder`; returns the configuration."""
    from transformers import AutoConfig, AutoTokenizer, GenerationConfig

    place = {"pretrained_model_name_or_path": str(path.parent), "gguf_file": path.name}
    try:
        with _lean_reader():
            config = AutoConfig.from_pretrained(**place)
            gc.collect()  # the reader's two million objects hold each other
            tokenizer = AutoTokenizer.from_pretrained(**place)
    except (ValueError, KeyError, IndexError, TypeError, AttributeError, NotImplementedError) as error:
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise ModelError(
            f"{path}: transformers cannot read its configuration or tokenizer ({reason}); choose another file of the "
            "model or its safetensors repository"
        ) from error
    config.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    GenerationConfig.from_model_config(config).save_pretrained(folder)
    return config


@contextmanager
def _lean_reader() -> Iterator[None]:
    """Let transformers read the long arrays of GGUF metadata as plain values.

    gguf's reader makes two or more views of its np.memmap for every token, score and type: for Gemma's 262,144 tokens
    27 s and 730 MB. Views of a plain array take 4 s and 360 MB, bytes and numbers 1 s and 130 MB.
    """
    import gguf

    class LeanReader(gguf.GGUFReader):
        @property  # type: ignore[override]
        def data(self) -> np.ndarray:
            return self._data

        @data.setter
        def data(self, mapped: np.ndarray) -> None:
            self._data = mapped.view(np.ndarray)

        def _get_field_parts(self, orig_offs: int, raw_type: int) -> tuple[int, list[Any], list[int], list[Any]]:
            if raw_type == gguf.GGUFValueType.ARRAY and self.byte_order == "I":
                kind, length = struct.unpack("<IQ", self._data[orig_offs : orig_offs + 12].tobytes())
                values, size = self._array(gguf.GGUFValueType(kind), length, orig_offs + 12)
                if values:
                    indices = list(range(len(values)))
                    return 12 + size, values, indices, [gguf.GGUFValueType.ARRAY, gguf.GGUFValueType(kind)]
            found: tuple[int, list[Any], list[int], list[Any]] = super()._get_field_parts(orig_offs, raw_type)
            return found

        def _array(self, kind: Any, length: int, start: int) -> tuple[list[Any], int]:
            """Items as transformers takes them: bytes of a string, a number as the only item of a tuple."""
            dtype = self.gguf_scalar_to_np.get(kind)
            if dtype is not None:
                return [(value,) for value in self._get(start, dtype, length).tolist()], length * np.dtype(
                    dtype
                ).itemsize
            values: list[Any] = []
            at = start
            if kind == gguf.GGUFValueType.STRING:
                for _ in range(length):
                    (count,) = struct.unpack("<Q", self._data[at : at + 8].tobytes())
                    values.append(self._data[at + 8 : at + 8 + count].tobytes())
                    at += 8 + count
            return values, at - start

    original = gguf.GGUFReader
    setattr(gguf, "GGUFReader", LeanReader)  # noqa: B010  to a type checker a class is not a variable
    try:
        yield
    finally:
        setattr(gguf, "GGUFReader", original)  # noqa: B010


def gguf_tensors(file: GgufFile, model: Any) -> tuple[dict[str, SourceTensor], ModelLayout, list[str]]:
    """Every parameter of `model` as packed rows of `file`, the model's layout, and notices worth showing."""
    layout = model_layout(model)
    names, processor = _names_and_processor(file, model)
    tensors: dict[str, SourceTensor] = {}
    unused = []
    for gguf_name in file.tensors:
        name = names.get(gguf_name, "")
        if name in layout.block_of:
            tensors[name] = _source_tensor(file, gguf_name, name, processor)
        elif gguf_name not in _NOT_WEIGHTS:
            unused.append(gguf_name)
    notices = []
    if unused:
        notices.append(f"{file.path.name}: {len(unused)} tensors have no place in the model, such as {unused[0]}")
    if "rope_freqs.weight" in file.tensors:
        notices.append(
            f"{file.path.name} carries its own rotary frequencies, which transformers does not read: positions far "
            "beyond the original context may differ from llama.cpp"
        )
    into_blocks(layout, tensors, str(file.path))
    return tensors, layout, notices


def _names_and_processor(file: GgufFile, model: Any) -> tuple[Mapping[str, str], Any]:
    try:
        from transformers.modeling_gguf_pytorch_utils import (
            TENSOR_PROCESSORS,
            TensorProcessor,
            get_gguf_hf_weights_map,
        )
    except ImportError as error:
        raise ModelError("this transformers cannot load GGUF files; install transformers 5.0 or newer") from error
    architecture = file.metadata.get("general.architecture", "")
    processor = TENSOR_PROCESSORS.get(architecture, TensorProcessor)(config=model.config.to_dict())
    try:
        return get_gguf_hf_weights_map(model, processor), processor
    except NotImplementedError as error:
        raise ModelError(
            f"{file.path}: architecture {architecture!r} has no GGUF names in the gguf package; use the model's "
            "safetensors repository"
        ) from error


def _source_tensor(file: GgufFile, gguf_name: str, name: str, processor: Any) -> SourceTensor:
    tensor = file.tensors[gguf_name]
    if len(tensor.shape) == 1:
        values = _process(processor, file.values(gguf_name).numpy(), gguf_name, file.path)
        changed = torch.from_numpy(np.ascontiguousarray(values, dtype=np.float32))
        shape = tuple(changed.shape)
        return SourceTensor(name, shape, Layout("f32"), lambda start, stop: {"data": changed[start:stop]})
    if len(tensor.shape) != 2:
        raise ModelError(
            f"{file.path}: tensor {gguf_name} has {len(tensor.shape)} dimensions (a mixture of experts?), which cannot "
            "be trained on yet; choose a dense model"
        )
    order = _row_order(processor, tensor.shape[0], gguf_name, file.path)

    def read_rows(start: int, stop: int) -> Mapping[str, Tensor]:
        raw = file.raw_rows(gguf_name)
        rows = raw[start:stop] if order is None else raw[order[start:stop]]
        return tensor.type.parts(torch.from_numpy(np.array(rows)))

    return SourceTensor(name, tensor.shape, tensor.type.layout, read_rows)


def _row_order(processor: Any, n_rows: int, gguf_name: str, path: Path) -> np.ndarray | None:
    """The order in which transformers takes the file's rows; None where it leaves them as they are."""
    numbers = np.arange(n_rows).reshape(n_rows, 1)
    moved = np.asarray(_process(processor, numbers.copy(), gguf_name, path))
    if moved.shape != numbers.shape or not np.array_equal(np.sort(moved, axis=0), numbers):
        raise ModelError(
            f"{path}: transformers changes more than the order of the rows of {gguf_name}, which packed weights "
            "cannot follow; use the model's safetensors repository"
        )
    return None if np.array_equal(moved, numbers) else moved[:, 0]


def _process(processor: Any, weights: np.ndarray, gguf_name: str, path: Path) -> np.ndarray:
    result = processor.process(weights=weights, name=gguf_name, tensor_key_mapping=None, parsed_parameters=None)
    if result.name != gguf_name:
        raise ModelError(f"{path}: tensor {gguf_name} belongs to a kind of model that cannot be trained on yet")
    processed: np.ndarray = result.weights
    return processed
