"""Exact attention in tiles of query rows, forward and backward by hand, registered with transformers'
`AttentionInterface`.

A tile of rows sees only the keys between its first and last visible one, so causal, sliding-window and packed rows
skip what the mask would throw away, and no S x S score matrix ever exists. Softmax runs over whole rows of a tile, so
nothing is approximated; the backward pass computes a tile's probabilities again (Dao et al. 2022 do the same in a
fused kernel). Measured on 2 AVX512-BF16 cores against `scaled_dot_product_attention`: 1.6 times faster at S = 512 and
1.3 times at S = 2048; 128 rows a tile are best for both.

Knows nothing of models beyond the interface's arguments.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor
from transformers import AttentionInterface
from transformers.masking_utils import AttentionMaskInterface, sdpa_mask

ATTENTION = "pocketft_tiled"
TILE_ROWS = 128
_VECTOR = 32  # columns that are added at once; adding 127 takes eight times as long as adding 128
# Of probabilities that are worked on together. Four rows of 512 tokens at once take 4.7 MB with nine heads and a fifth
# more time than two by two.
_CACHED_BYTES = 3 << 20


@dataclass(frozen=True)
class Tile:
    """Query rows [row_start, row_stop) that see no key outside [key_start, key_stop), and inside it every key but for
    some of the M from `masked_start` on.

    `bias` (B, 1, 1, R, M) is added to their scores: 0, or -inf where a query may not look. Adding it is four times as
    fast as filling by a mask of bools; one row of the batch may serve them all.
    """

    row_start: int
    row_stop: int
    key_start: int
    key_stop: int
    masked_start: int
    bias: Tensor

    @property
    def masked_stop(self) -> int:
        return self.masked_start + self.bias.shape[-1]


@dataclass(frozen=True)
class TiledMask:
    """`tiles` cover all rows of queries. With `keep`, probabilities wait for the backward pass, (B, H, S, T) without
    what a tile leaves out, instead of being computed again.
    """

    tiles: tuple[Tile, ...]
    keep: bool = False

    def part(self, rows: slice) -> TiledMask:
        """For these rows of the batch."""
        return self._with(lambda bias: bias if len(bias) == 1 else bias[rows])

    @property
    def most_bytes(self) -> int:
        """What the biases take where texts end within the rows: then they span all keys of their tile."""
        return sum(
            len(tile.bias) * (tile.row_stop - tile.row_start) * (tile.key_stop - tile.key_start) * tile.bias.itemsize
            for tile in self.tiles
        )

    def to(self, device: torch.device) -> TiledMask:
        return self._with(lambda bias: bias.to(device))

    def _with(self, change: Callable[[Tensor], Tensor]) -> TiledMask:
        return replace(self, tiles=tuple(replace(tile, bias=change(tile.bias)) for tile in self.tiles))


def tiled_mask(**arguments: Any) -> TiledMask:
    """Mask function for `AttentionMaskInterface`: transformers decides who sees whom, and is asked tile by tile."""
    arguments.update(allow_is_causal_skip=False, allow_is_bidirectional_skip=False)
    rows, offset = arguments["q_length"], arguments.pop("q_offset", 0)
    tiles = []
    for start in range(0, rows, TILE_ROWS):
        stop = min(start + TILE_ROWS, rows)
        visible = sdpa_mask(**{**arguments, "q_length": stop - start, "q_offset": offset + start})
        assert visible is not None
        tiles.append(_tile(start, stop, visible, arguments.get("dtype", torch.float32)))
    return TiledMask(tuple(tiles))


def _tile(row_start: int, row_stop: int, visible: Tensor, dtype: torch.dtype) -> Tile:
    """`visible` is bool (B, 1, R, T). Where keys begin and end is rounded to whole tiles: each shape of a product costs
    kernels, and rows of several documents would each have shapes of their own.
    """
    some_row = visible.flatten(0, 2)  # (B * R, T)
    seen = some_row.any(dim=0).nonzero()
    key_start = int(seen[0]) // TILE_ROWS * TILE_ROWS
    key_stop = min(visible.shape[-1], (int(seen[-1]) // TILE_ROWS + 1) * TILE_ROWS)
    hidden = (~some_row[:, key_start:key_stop].all(dim=0)).nonzero() + key_start
    masked_start = masked_stop = key_start
    if len(hidden):
        masked_start = int(hidden[0]) // _VECTOR * _VECTOR
        masked_stop = min(key_stop, (int(hidden[-1]) // _VECTOR + 1) * _VECTOR)
    masked = ~visible[:, :, None, :, masked_start:masked_stop]  # (B, 1, 1, R, M)
    bias = torch.zeros(masked.shape, dtype=dtype, device=visible.device).masked_fill_(masked, float("-inf"))
    return Tile(row_start, row_stop, key_start, key_stop, masked_start, bias)


def tiled_attention(
    module: torch.nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: TiledMask,
    scaling: float | None = None,
    **arguments: Any,
) -> tuple[Tensor, None]:
    """query (B, H, S, D), key and value (B, KV, T, D) -> (B, S, H, D).

    Raises NotImplementedError for score soft-capping and attention sinks, which would change the mathematics if
    ignored.
    """
    for unsupported in ("softcap", "s_aux", "sinks"):
        if arguments.get(unsupported) is not None:
            raise NotImplementedError(f"attention with {unsupported}")
    scale = query.shape[-1] ** -0.5 if scaling is None else scaling
    return _TiledAttention.apply(query, key, value, attention_mask, scale), None


class _TiledAttention(torch.autograd.Function):
    """o = softmax(scale q kT + mask) v. H = KV * G query heads share KV key heads."""

    @staticmethod
    def forward(ctx: Any, query: Tensor, key: Tensor, value: Tensor, mask: TiledMask, scale: float) -> Tensor:
        kept: list[Tensor] | None = [] if mask.keep and any(ctx.needs_input_grad) else None
        out = query.new_empty(query.shape[0], query.shape[2], query.shape[1], query.shape[3])  # (B, S, H, D)
        for part in _parts(query, key):
            _attend(query[part], key[part], value[part], mask.part(part), scale, out[part], kept)
        ctx.save_for_backward(query, key, value, *(kept or ()))
        ctx.mask, ctx.scale = mask, scale
        return out

    @staticmethod
    def backward(ctx: Any, *grad_outputs: Tensor) -> tuple[Tensor | None, ...]:
        query, key, value, *kept = ctx.saved_tensors
        grad_out = grad_outputs[0].transpose(1, 2)  # (B, H, S, D)
        dq, dk, dv = (torch.empty_like(t, memory_format=torch.contiguous_format) for t in (query, key, value))
        waiting = iter(kept)
        for part in _parts(query, key):
            q, k, v, do = query[part], key[part], value[part], grad_out[part]
            _attend_backward(q, k, v, do, ctx.mask.part(part), ctx.scale, waiting, dq[part], dk[part], dv[part])
        return dq, dk, dv, None, None


def _parts(query: Tensor, key: Tensor) -> list[slice]:
    """Rows of the batch whose probabilities of a tile fit the cache together; at least one."""
    batch, heads, rows, _ = query.shape
    one = heads * min(rows, TILE_ROWS) * key.shape[2] * query.itemsize
    step = max(1, _CACHED_BYTES // one)
    return [slice(start, start + step) for start in range(0, batch, step)]


def _attend(
    query: Tensor, key: Tensor, value: Tensor, mask: TiledMask, scale: float, out: Tensor, kept: list[Tensor] | None
) -> None:
    """Write softmax(scale q kT + mask) v into `out`, (B, S, H, D). `kept` takes the probabilities of each tile."""
    heads = _Heads(query, key)
    k, v = heads.keys(key), heads.keys(value)
    grouped = out.unflatten(2, (heads.kv, heads.group))  # (B, S, KV, G, D)
    for tile in mask.tiles:
        probabilities = _probabilities(heads, heads.tile(query, tile) * scale, k, tile)
        if kept is not None:
            kept.append(probabilities)
        o = torch.bmm(probabilities, v[:, tile.key_start : tile.key_stop])  # (B*KV, G*R, D)
        o = o.view(heads.batch, heads.kv, heads.group, -1, heads.dim)
        grouped[:, tile.row_start : tile.row_stop] = o.permute(0, 3, 1, 2, 4)


def _attend_backward(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    grad_out: Tensor,
    mask: TiledMask,
    scale: float,
    kept: Iterator[Tensor],
    dq: Tensor,
    dk: Tensor,
    dv: Tensor,
) -> None:
    """Write the gradients of query, key and value, in their shapes, from that of the output, (B, H, S, D). `kept` gives
    the probabilities of each tile, or nothing.
    """
    heads = _Heads(query, key)
    k, v = heads.keys(key), heads.keys(value)
    k_sum = torch.zeros_like(k, dtype=torch.float32)  # sums over tiles are kept in fp32
    v_sum = torch.zeros_like(v, dtype=torch.float32)
    for tile in mask.tiles:
        seen = slice(tile.key_start, tile.key_stop)
        q = heads.tile(query, tile) * scale
        do = heads.tile(grad_out, tile)
        p = next(kept, None)
        if p is None:
            p = _probabilities(heads, q, k, tile)  # (B*KV, G*R, N)
        v_sum[:, seen] += torch.bmm(p.transpose(1, 2), do)
        dp = torch.bmm(do, v[:, seen].transpose(1, 2))
        ds = torch._softmax_backward_data(dp, p, -1, p.dtype)
        k_sum[:, seen] += torch.bmm(ds.transpose(1, 2), q)
        tile_dq = torch.bmm(ds, k[:, seen]).mul_(scale)
        heads.tile_view(dq, tile).copy_(tile_dq.view(heads.batch, heads.kv, heads.group, -1, heads.dim))
    dk.copy_(k_sum.view_as(key))
    dv.copy_(v_sum.view_as(value))


class _Heads:
    """Shapes of grouped-query attention, and the reshapes between (B, H, S, D) and batched products over B * KV."""

    def __init__(self, query: Tensor, key: Tensor) -> None:
        self.batch, heads, self.rows, self.dim = query.shape
        self.kv = key.shape[1]
        self.group = heads // self.kv

    def keys(self, tensor: Tensor) -> Tensor:
        return tensor.reshape(self.batch * self.kv, -1, self.dim)  # (B*KV, T, D)

    def tile_view(self, tensor: Tensor, tile: Tile) -> Tensor:
        grouped = tensor.unflatten(1, (self.kv, self.group))
        return grouped[:, :, :, tile.row_start : tile.row_stop]  # (B, KV, G, R, D)

    def tile(self, tensor: Tensor, tile: Tile) -> Tensor:
        return self.tile_view(tensor, tile).reshape(self.batch * self.kv, -1, self.dim)  # (B*KV, G*R, D)


def keeping_probabilities(arguments: dict[str, Any]) -> dict[str, Any]:
    """The arguments of a layer, with a mask that says so."""
    return {name: replace(v, keep=True) if isinstance(v, TiledMask) else v for name, v in arguments.items()}


def _probabilities(heads: _Heads, scaled_q: Tensor, k: Tensor, tile: Tile) -> Tensor:
    """(B*KV, G*R, N) for the N keys that the tile sees."""
    scores = torch.bmm(scaled_q, k[:, tile.key_start : tile.key_stop].transpose(1, 2))
    per_head = scores.view(heads.batch, heads.kv, heads.group, tile.row_stop - tile.row_start, -1)
    per_head[..., tile.masked_start - tile.key_start : tile.masked_stop - tile.key_start].add_(tile.bias)
    return torch.softmax(scores, dim=-1)


def register_attention() -> str:
    """Make the tiled attention known to transformers; returns the name to put into a model's `attn_implementation`."""
    forward: Callable[..., Any] = tiled_attention
    AttentionInterface.register(ATTENTION, forward)
    AttentionMaskInterface.register(ATTENTION, tiled_mask)
    return ATTENTION
