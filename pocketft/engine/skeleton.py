"""transformers' own model code over frozen, packed weights that live elsewhere.

Takes a configuration and a `WeightSource` and returns the model that transformers would build, with each `nn.Linear`
of a decoder layer replaced by a `FrozenLinear`, the embedding and head by packed ones, and RMSNorms by exact cheap
ones. Nothing here knows a model by its type: which linears read the same input, and whether a block ends in a bare
residual sum, is found by running each layer once on two tokens with products that compute nothing.
"""

from __future__ import annotations

import copy
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from accelerate import init_empty_weights
from torch import Tensor, nn
from transformers import AutoModelForCausalLM, PretrainedConfig
from transformers.initialization import no_init_weights

from pocketft.engine.attention import TiledMask, register_attention
from pocketft.engine.embedding import PackedEmbedding, PackedHead
from pocketft.engine.linear import FrozenLinear, LinearGroup
from pocketft.engine.norm import replace_rms_norms
from pocketft.engine.packed import PackedTensor, Rows, dequantize
from pocketft.engine.residency import BlockWeights, GroupWeights
from pocketft.engine.rotary import replace_rotations
from pocketft.engine.weights import StreamedRows, WeightSource


class UnsupportedModel(ValueError):
    """The model computes something that this engine would leave out."""


@dataclass(frozen=True)
class Skeleton:
    """`block_ends[i]` is the group whose product ends block i in a bare residual sum, or None."""

    model: nn.Module
    decoder: Any  # an nn.Module with `layers` and `norm`
    layers: tuple[nn.Module, ...]
    blocks: tuple[BlockWeights, ...]
    block_ends: tuple[LinearGroup | None, ...]
    embedding: PackedEmbedding
    head: PackedHead

    @property
    def linears(self) -> list[FrozenLinear]:
        return [member for block in self.blocks for weights in block.groups for member in weights.group.members]


def build_skeleton(
    config: PretrainedConfig,
    source: WeightSource,
    dtype: torch.dtype,
    device: torch.device,
    stream_ends: bool = False,
) -> Skeleton:
    """Build the model around `source`. Only norms, biases, the packed embedding and the packed head are read; with
    `stream_ends` the last two are not, but in use, row by row.

    Raises UnsupportedModel for architectures whose mathematics the engine does not carry.
    """
    model = empty_model(config, dtype)
    decoder = model.get_decoder()
    _require_bare_head(model)
    _move_buffers(decoder, device)
    layers = tuple(decoder.layers)
    biases = _freeze_linears(layers, device)
    names = {module: name for name, module in model.named_modules()}
    _load_small_tensors(model, source, biases, dtype, device)
    replace_rms_norms(decoder)
    replace_rotations(decoder)
    embedding, head = _pack_ends(model, source, dtype, device, stream_ends)
    blocks, ends = [], []
    for index, (layer, arguments) in enumerate(zip(layers, _probe_arguments(decoder, dtype, device), strict=True)):
        linears = [m for m in layer.modules() if isinstance(m, FrozenLinear)]
        groups, end = _probe_layer(layer, linears, arguments, dtype, device, first_index=index * 64)
        for group in groups:
            group.bias = _stacked_bias(group, biases, dtype)
        blocks.append(_block_weights(f"block.{index}", groups, names))
        ends.append(end)
    return Skeleton(model, decoder, layers, tuple(blocks), tuple(ends), embedding, head)


def empty_model(config: PretrainedConfig, dtype: torch.dtype) -> Any:
    """transformers' model, its weights without numbers and never initialized: buffers are all it holds."""
    with init_empty_weights(include_buffers=False), no_init_weights():
        model = AutoModelForCausalLM.from_config(config, attn_implementation=register_attention(), dtype=dtype)
    return model.requires_grad_(False).eval()


def call_arguments(skeleton: Skeleton, embeds: Tensor, position_ids: Tensor) -> list[dict[str, Any]]:
    """The keyword arguments with which the model would call each of its layers: masks, rotary tables, positions.

    embeds (B, S, d) gives shape, dtype and device; position_ids (B, S). Taken from the model's own forward pass, run
    over layers that only take note, so sliding windows, local rotary bases and packing come out as transformers means
    them.
    """
    return _recorded_arguments(skeleton.decoder, embeds, position_ids)


class _Recorder(nn.Module):
    """Stands in for a decoder layer: notes its arguments, returns its input, otherwise looks like the layer."""

    def __init__(self, layer: nn.Module) -> None:
        super().__init__()
        object.__setattr__(self, "layer", layer)
        self.arguments: dict[str, Any] = {}
        self.received: Tensor | None = None

    def forward(self, hidden_states: Tensor, **arguments: Any) -> Tensor:
        self.arguments, self.received = arguments, hidden_states
        return hidden_states

    def __getattr__(self, name: str) -> Any:
        try:
            return super().__getattr__(name)
        except AttributeError:
            return getattr(self.__dict__["layer"], name)


@torch.no_grad()
def _recorded_arguments(decoder: Any, embeds: Tensor, position_ids: Tensor) -> list[dict[str, Any]]:
    recorders = [_Recorder(layer) for layer in decoder.layers]
    shadow = _shadow(decoder, layers=nn.ModuleList(recorders), norm=nn.Identity())
    output = shadow(inputs_embeds=embeds, position_ids=position_ids, use_cache=False).last_hidden_state
    for recorder in recorders:
        recorder.arguments.pop("past_key_values", None)
        if recorder.received is not embeds:
            raise UnsupportedModel(f"{type(decoder).__name__} changes hidden states outside its layers")
    if output is not embeds:
        raise UnsupportedModel(f"{type(decoder).__name__} changes hidden states after its layers")
    return [recorder.arguments for recorder in recorders]


def _shadow(module: Any, **replaced: nn.Module) -> Any:
    """The same module, sharing everything, but for some of its children."""
    shadow = copy.copy(module)
    shadow._modules = {**module._modules, **replaced}
    return shadow


class _Constant(nn.Module):
    """A head that says the same whatever it is given."""

    def __init__(self, logits: Tensor) -> None:
        super().__init__()
        self.logits = logits

    def forward(self, hidden: Tensor) -> Tensor:
        return self.logits


@torch.no_grad()
def _require_bare_head(model: Any) -> None:
    """Raise UnsupportedModel where the model does more to its logits than its head does: scales or caps them."""
    decoder, head = model.get_decoder(), model.get_output_embeddings()
    names = {id(child): name for name, child in model.named_children()}
    logits = torch.randn(1, 2, 5)
    silent = _shadow(decoder, layers=nn.ModuleList(_Recorder(layer) for layer in decoder.layers), norm=nn.Identity())
    shadow = _shadow(model, **{names[id(decoder)]: silent, names[id(head)]: _Constant(logits)})
    embeds = torch.zeros(1, 2, decoder.config.hidden_size)
    if not torch.equal(shadow(inputs_embeds=embeds, use_cache=False).logits, logits):
        raise UnsupportedModel(f"{type(model).__name__} changes its logits after the head")


def _probe_arguments(decoder: Any, dtype: torch.dtype, device: torch.device) -> list[dict[str, Any]]:
    """Taken where the buffers are: on the CPU while planning, since masks depend on values that meta tensors lack."""
    real = torch.device("cpu") if device.type == "meta" else device
    embeds = torch.zeros(1, 2, decoder.config.hidden_size, dtype=dtype, device=real)
    arguments = _recorded_arguments(decoder, embeds, torch.arange(2, device=real)[None])
    return [{name: on_device(value, device) for name, value in one.items()} for one in arguments]


def on_device(value: Any, device: torch.device) -> Any:
    """A call argument, and whatever it is made of, on `device`."""
    if isinstance(value, (Tensor, TiledMask)):
        return value.to(device)
    if isinstance(value, tuple):
        return tuple(on_device(item, device) for item in value)
    return value


def _move_buffers(decoder: nn.Module, device: torch.device) -> None:
    """Rotary frequencies. While planning they stay on the CPU, where masks and tables are made."""
    if device.type == "meta":
        return
    for module in decoder.modules():
        for name, buffer in module._buffers.items():
            if buffer is not None:
                module._buffers[name] = buffer.to(device)


class _ProbeProduct(torch.autograd.Function):
    """A product that computes nothing but leaves its mark in the graph."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, out_features: int) -> Tensor:
        return x.new_zeros(*x.shape[:-1], out_features)


def _probe_layer(
    layer: nn.Module,
    linears: list[FrozenLinear],
    arguments: Mapping[str, Any],
    dtype: torch.dtype,
    device: torch.device,
    first_index: int,
) -> tuple[list[LinearGroup], LinearGroup | None]:
    """The groups of a layer, in order of use, and the group that ends it in a bare residual sum, if any."""
    calls: list[tuple[FrozenLinear, Tensor, Any]] = []

    def probe(module: FrozenLinear, inputs: tuple[Tensor, ...]) -> Tensor:
        output = _ProbeProduct.apply(inputs[0], module.out_features)
        calls.append((module, inputs[0], output.grad_fn))
        return output

    for linear in linears:
        linear.__dict__["forward"] = lambda x, linear=linear: probe(linear, (x,))
    hidden = torch.zeros(1, 2, linears[0].in_features, dtype=dtype, device=device, requires_grad=True)
    try:
        with torch.enable_grad():
            output = layer(hidden, **arguments)
    finally:
        for linear in linears:
            del linear.__dict__["forward"]
    if not isinstance(output, Tensor) or len(calls) != len(linears):
        raise UnsupportedModel(f"{type(layer).__name__} does not call each of its linears once or returns no tensor")
    by_input: dict[int, list[FrozenLinear]] = {}
    for module, x, _ in calls:
        by_input.setdefault(id(x), []).append(module)
    groups = [LinearGroup(members, first_index + i) for i, members in enumerate(by_input.values())]
    end: Any = output.grad_fn
    summands = [node for node, _ in end.next_functions] if "Add" in end.name() else []
    last, _, mark = calls[-1]
    ends_bare = any(node is mark for node in summands) and last.group is not None and len(last.group.members) == 1
    return groups, last.group if ends_bare else None


def _block_weights(name: str, groups: list[LinearGroup], names: Mapping[nn.Module, str]) -> BlockWeights:
    weights = []
    for group in groups:
        shape = (sum(group.out_features), group.members[0].in_features)
        weights.append(GroupWeights(group, tuple(f"{names[m]}.weight" for m in group.members), shape))
    return BlockWeights(name, tuple(weights))


def _freeze_linears(layers: tuple[nn.Module, ...], device: torch.device) -> dict[FrozenLinear, nn.Parameter]:
    """Put FrozenLinears in place of the layers' linears, under the same names. Returns the biases, still to be
    loaded.
    """
    biases: dict[FrozenLinear, nn.Parameter] = {}
    for layer in layers:
        for parent in list(layer.modules()):
            for name, child in list(parent.named_children()):
                if type(child) is nn.Linear:
                    frozen = FrozenLinear(child.in_features, child.out_features, device)
                    setattr(parent, name, frozen)
                    if child.bias is not None:
                        biases[frozen] = child.bias
    return biases


def _load_small_tensors(
    model: nn.Module,
    source: WeightSource,
    biases: dict[FrozenLinear, nn.Parameter],
    dtype: torch.dtype,
    device: torch.device,
) -> None:
    """Norm weights become parameters of the model; biases are kept aside for their groups."""
    wanted = {name for name, p in model.named_parameters() if p.is_meta and p.dim() == 1}
    owners = {f"{name}.bias": m for name, m in model.named_modules() if isinstance(m, FrozenLinear) and m in biases}
    for block in source.block_names():
        if block in ("embedding", "head"):
            continue
        small = [t.name for t in source.block_spec(block).tensors if t.name in wanted or t.name in owners]
        packed = source.read_tensors(block, small)
        for name in small:
            values = torch.empty(packed[name].shape, dtype=torch.float32, device=device)
            dequantize(packed[name].to(device), values)
            if name in owners:
                biases[owners.pop(name)] = nn.Parameter(values.to(dtype), requires_grad=False)
            else:
                parent, _, leaf = name.rpartition(".")
                model.get_submodule(parent).register_parameter(leaf, nn.Parameter(values, requires_grad=False))
            wanted.discard(name)
    missing = sorted(name for name in (*wanted, *owners) if "embed_tokens" not in name)
    if missing:
        raise UnsupportedModel(f"the weights lack {', '.join(missing)}")


def _stacked_bias(group: LinearGroup, biases: Mapping[FrozenLinear, Tensor], dtype: torch.dtype) -> Tensor | None:
    if not any(member in biases for member in group.members):
        return None
    zero = group.members[0].weight.new_zeros
    return torch.cat([biases[m] if m in biases else zero(m.out_features, dtype=dtype) for m in group.members]).detach()


def _pack_ends(
    model: Any, source: WeightSource, dtype: torch.dtype, device: torch.device, stream: bool
) -> tuple[PackedEmbedding, PackedHead]:
    def rows_of(block: str) -> Rows:
        return StreamedRows(source, block, device) if stream else _only(source.read_block(block)).to(device)

    rows = rows_of("embedding")
    head_rows = rows_of("head") if "head" in source.block_names() else rows
    embedding = PackedEmbedding(model.get_input_embeddings(), rows, dtype)
    head = PackedHead(head_rows)
    model.set_input_embeddings(embedding)
    model.set_output_embeddings(head)
    return embedding, head


def _only(tensors: Mapping[str, PackedTensor]) -> PackedTensor:
    (tensor,) = tensors.values()
    return tensor
