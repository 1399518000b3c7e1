"""Attention, loss, norm and grouped products, each against the plain way of writing it."""

from __future__ import annotations

import weakref
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode
from transformers.models.gemma3 import modeling_gemma3 as Gemma3
from transformers.models.gemma3.modeling_gemma3 import Gemma3RMSNorm
from transformers.models.glm.modeling_glm import GlmAttention
from transformers.models.llama import modeling_llama as Llama
from transformers.models.llama.modeling_llama import LlamaRMSNorm
from transformers.models.phi3 import modeling_phi3 as Phi3

from pocketft.engine import attention
from pocketft.engine.attention import TILE_ROWS, tiled_attention, tiled_mask
from pocketft.engine.gradient import backward_from
from pocketft.engine.linear import FrozenLinear, LinearGroup, Lora
from pocketft.engine.loss import LossTiles, head_loss, head_loss_and_grad
from pocketft.engine.norm import FrozenRMSNorm, replace_rms_norms
from pocketft.engine.rotary import replace_rotations
from tests.engine.memory_source import as_affine4, unpacked


def causal_window(window: int):  # type: ignore[no-untyped-def]
    return lambda batch, head, q, k: (k <= q) & (k > q - window)


def hidden_keys(length: int, window: int) -> Tensor:
    """(S, S), True where a query may not look."""
    q, k = torch.arange(length)[:, None], torch.arange(length)
    return ~causal_window(window)(0, 0, q, k)


@pytest.mark.parametrize("length,window", [(1, 9999), (TILE_ROWS, 9999), (TILE_ROWS * 2 + 37, 9999), (300, 40)])
def test_tiled_attention_and_its_gradients_equal_softmax_over_whole_rows(length: int, window: int) -> None:
    torch.manual_seed(0)
    q = torch.randn(2, 6, length, 16, requires_grad=True)
    k, v = (torch.randn(2, 3, length, 16, requires_grad=True) for _ in range(2))
    mask = tiled_mask(batch_size=2, q_length=length, kv_length=length, mask_function=causal_window(window))
    upstream = torch.randn(2, length, 6, 16)
    out, _ = tiled_attention(nn.Identity(), q, k, v, mask, scaling=0.3)
    got = torch.autograd.grad(out, (q, k, v), upstream)
    scores = q @ k.repeat_interleave(2, 1).transpose(2, 3) * 0.3
    probabilities = scores.masked_fill(hidden_keys(length, window), float("-inf")).softmax(-1)
    expected = (probabilities @ v.repeat_interleave(2, 1)).transpose(1, 2)
    torch.testing.assert_close(out, expected, rtol=1e-4, atol=1e-5)
    for mine, theirs in zip(got, torch.autograd.grad(expected, (q, k, v), upstream), strict=True):
        torch.testing.assert_close(mine, theirs, rtol=1e-4, atol=1e-5)


def window_but_for_one_row(batch: Tensor, head: Tensor, q: Tensor, k: Tensor) -> Tensor:
    """Row 1 does not see its first keys, as after padding."""
    return causal_window(70)(batch, head, q, k) & ~((batch == 1) & (k < 5) & (q > 5))


def test_rows_of_a_batch_that_exceed_the_cache_are_attended_to_one_after_another(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    torch.manual_seed(0)
    q = torch.randn(3, 4, 150, 8, requires_grad=True)
    k, v = (torch.randn(3, 2, 150, 8, requires_grad=True) for _ in range(2))
    own = tiled_mask(batch_size=3, q_length=150, kv_length=150, mask_function=window_but_for_one_row)
    upstream = torch.randn(3, 150, 4, 8)

    def run() -> list[Tensor]:
        out, _ = tiled_attention(nn.Identity(), q, k, v, own, scaling=0.3)
        return [out, *torch.autograd.grad(out, (q, k, v), upstream)]

    together = run()
    assert len(own.tiles[0].bias) == 3
    monkeypatch.setattr(attention, "_CACHED_BYTES", 1)
    for one_by_one, expected in zip(run(), together, strict=True):
        torch.testing.assert_close(one_by_one, expected)


def test_tiles_leave_out_keys_that_no_row_sees() -> None:
    mask = tiled_mask(batch_size=1, q_length=512, kv_length=512, mask_function=causal_window(100))
    assert [(t.key_start, t.key_stop) for t in mask.tiles] == [(0, 128), (0, 256), (128, 384), (256, 512)]
    causal = tiled_mask(batch_size=1, q_length=300, kv_length=300, mask_function=causal_window(999))
    assert [(t.masked_start, t.masked_stop) for t in causal.tiles] == [(0, 128), (128, 256), (256, 300)]


def test_a_mask_takes_memory_where_something_is_hidden_and_at_borders_no_more_than_foretold() -> None:
    causal = tiled_mask(batch_size=1, q_length=512, kv_length=512, mask_function=causal_window(999))
    assert all(tile.bias.shape[-1] <= TILE_ROWS for tile in causal.tiles)
    split = tiled_mask(batch_size=1, q_length=512, kv_length=512, mask_function=two_texts)
    assert sum(tile.bias.nbytes for tile in split.tiles) <= causal.most_bytes
    assert [tile.key_start for tile in split.tiles] == [0, 0, 128, 128]


def two_texts(batch: Tensor, head: Tensor, q: Tensor, k: Tensor) -> Tensor:
    return (k <= q) & ((q < 200) == (k < 200))


def test_attention_refuses_what_it_would_leave_out() -> None:
    q = torch.randn(1, 1, 2, 4)
    mask = tiled_mask(batch_size=1, q_length=2, kv_length=2)
    with pytest.raises(NotImplementedError, match="softcap"):
        tiled_attention(nn.Identity(), q, q, q, mask, softcap=30.0)


@settings(max_examples=40, deadline=None, derandomize=True)
@given(
    tokens=st.integers(1, 40),
    vocab=st.integers(2, 90),
    rows=st.integers(2, 100),
    tile=st.integers(1, 50),
    sharpness=st.sampled_from([0.1, 1.0, 30.0]),
    seed=st.integers(0, 99),
)
def test_tiled_loss_equals_cross_entropy(
    tokens: int, vocab: int, rows: int, tile: int, sharpness: float, seed: int
) -> None:
    generator = torch.Generator().manual_seed(seed)
    head = as_affine4(torch.randn(vocab, 16, generator=generator))
    hidden = (torch.randn(tokens, 16, generator=generator) * sharpness).requires_grad_()
    targets = torch.randint(vocab, (tokens,), generator=generator)
    expected = nn.functional.cross_entropy(hidden @ unpacked(head).T, targets, reduction="sum")
    (expected_grad,) = torch.autograd.grad(expected, hidden)
    loss, grad = head_loss_and_grad(hidden.detach(), targets, head, LossTiles(rows, tile))
    torch.testing.assert_close(loss, expected.detach(), rtol=1e-5, atol=1e-4)
    torch.testing.assert_close(grad, expected_grad, rtol=1e-3, atol=1e-4)
    torch.testing.assert_close(head_loss(hidden.detach(), targets, head, LossTiles(rows, tile)), loss)


class _ShapesOfProducts(TorchDispatchMode):
    """Notes how many rows the left side of each matrix product has."""

    def __init__(self) -> None:
        super().__init__()
        self.rows: set[int] = set()

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func._schema.name == "aten::mm":
            self.rows.add(args[0].shape[0])
        return func(*args, **(kwargs or {}))


def test_however_many_tokens_there_are_the_loss_multiplies_in_few_shapes() -> None:
    head = as_affine4(torch.randn(40, 16))
    with _ShapesOfProducts() as products:
        for tokens in range(1, 100):
            head_loss_and_grad(torch.randn(tokens, 16), torch.zeros(tokens, dtype=torch.int64), head, LossTiles(16, 64))
    assert products.rows == {8, 16, 24, 32, 40, 48, 56, 64}


def test_the_gradient_of_a_token_known_for_certain_is_small_not_noise() -> None:
    head = as_affine4(torch.eye(32))
    hidden = torch.zeros(1, 32, dtype=torch.bfloat16)
    hidden[0, 7] = 40.0  # p(7) = 1 - 31 exp(-40)
    _, grad = head_loss_and_grad(hidden, torch.tensor([7]), head, LossTiles(8, 1))
    assert grad.abs().max() < 1e-15


@pytest.mark.parametrize("heads", [Llama, Gemma3, Phi3])
def test_rotations_are_replaced_in_the_module_and_nowhere_else(heads: Any) -> None:
    theirs = heads.apply_rotary_pos_emb
    q, k = (torch.randn(2, 5, n, 16).transpose(1, 2).requires_grad_() for n in (4, 2))
    cos, sin, dq, dk = torch.randn(2, 5, 16), torch.randn(2, 5, 16), torch.randn(2, 4, 5, 16), torch.randn(2, 2, 5, 16)
    expected = torch.autograd.grad(theirs(q, k, cos, sin), (q, k), (dq, dk))
    attention = next(c for name, c in vars(heads).items() if name.endswith("Attention"))
    module = attention.__new__(attention)
    nn.Module.__init__(module)
    replace_rotations(module)
    ours = module.forward.__globals__["apply_rotary_pos_emb"]
    assert ours is not theirs and heads.apply_rotary_pos_emb is theirs
    rotated = ours(q, k, cos, sin)
    for a, b in zip(rotated, theirs(q, k, cos, sin), strict=True):
        torch.testing.assert_close(a, b)
    for a, b in zip(torch.autograd.grad(rotated, (q, k), (dq, dk)), expected, strict=True):
        torch.testing.assert_close(a, b)
    half = cos.bfloat16(), sin.bfloat16()  # another dtype than the queries: theirs decides what comes out
    assert all(torch.equal(a, b) for a, b in zip(ours(q, k, *half), theirs(q, k, *half), strict=True))


def test_a_rotation_of_another_kind_is_left_alone() -> None:
    module = GlmAttention.__new__(GlmAttention)  # turns neighbours, not halves
    nn.Module.__init__(module)
    replace_rotations(module)
    assert "forward" not in vars(module)


def test_backward_from_a_known_gradient_gives_what_autograd_gives() -> None:
    torch.manual_seed(0)
    x, gradient = torch.randn(2, 3, 4, requires_grad=True), torch.randn(2, 3, 4)
    (expected,) = torch.autograd.grad(x.exp(), x, gradient)
    backward_from(x.exp(), gradient)
    assert x.grad is not None and torch.equal(x.grad, expected)


@pytest.mark.parametrize("original", [LlamaRMSNorm(24, eps=1e-5), Gemma3RMSNorm(24, eps=1e-6)])
def test_norms_are_recognised_by_what_they_compute(original: nn.Module) -> None:
    torch.manual_seed(1)
    original.weight.data.normal_()
    holder = nn.ModuleDict({"norm": original, "other": nn.LayerNorm(24)})
    replace_rms_norms(holder)
    assert isinstance(holder["norm"], FrozenRMSNorm) and isinstance(holder["other"], nn.LayerNorm)
    x = torch.randn(2, 5, 24, requires_grad=True)
    upstream = torch.randn(2, 5, 24)
    expected, got = original(x), holder["norm"](x)
    torch.testing.assert_close(got, expected, rtol=1e-5, atol=1e-6)
    theirs, mine = (torch.autograd.grad(y, x, upstream)[0] for y in (expected, got))
    torch.testing.assert_close(mine, theirs, rtol=1e-4, atol=1e-6)


def grouped(dropout: float = 0.0) -> tuple[LinearGroup, list[FrozenLinear]]:
    torch.manual_seed(2)
    members = [FrozenLinear(12, out, torch.device("cpu")) for out in (8, 4)]
    for member in members:
        a, b = nn.Parameter(torch.randn(3, 12)), nn.Parameter(torch.randn(member.out_features, 3))
        member.lora = Lora(a, b, 0.5, dropout)
    group = LinearGroup(members, 0)
    group.weight, group.bias = torch.randn(12, 12), torch.randn(12)
    return group, members


def separately(members: list[FrozenLinear], group: LinearGroup, x: Tensor) -> list[Tensor]:
    assert group.weight is not None and group.bias is not None
    weights, biases = group.weight.split([8, 4]), group.bias.split([8, 4])
    return [
        x @ w.T + b + 0.5 * (x @ m.lora.a.T) @ m.lora.b.T  # type: ignore[union-attr]
        for m, w, b in zip(members, weights, biases, strict=True)
    ]


def test_a_group_multiplies_once_and_gives_what_its_members_give_alone() -> None:
    group, members = grouped()
    x = torch.randn(2, 7, 12, requires_grad=True)
    leaves = [x, *(p for m in members if m.lora for p in (m.lora.a, m.lora.b))]
    outputs, expected = [m(x) for m in members], separately(members, group, x)
    upstream = [torch.randn_like(y) for y in outputs]
    for mine, theirs in zip(outputs, expected, strict=True):
        torch.testing.assert_close(mine, theirs)
    got = torch.autograd.grad(outputs, leaves, upstream)
    for mine, theirs in zip(got, torch.autograd.grad(expected, leaves, upstream), strict=True):
        torch.testing.assert_close(mine, theirs, rtol=1e-4, atol=1e-5)


def test_a_new_input_is_never_answered_with_what_waits_from_an_old_one() -> None:
    group, members = grouped()
    x, y = torch.randn(1, 2, 12), torch.randn(1, 2, 12)
    members[0](x)  # the other member is never asked: an interrupted pass
    members[0](y)
    torch.testing.assert_close(members[1](y), separately(members, group, y)[1])


def test_a_pass_that_was_broken_off_leaves_no_tensor_behind() -> None:
    group, members = grouped()
    x = torch.randn(1, 2, 12)
    waiting = weakref.ref(x)
    members[0](x)
    del x
    assert waiting() is not None
    group.forget()
    assert waiting() is None


def test_dropout_is_the_same_again_for_the_same_seed_and_its_gradient_fits() -> None:
    group, members = grouped(dropout=0.4)
    x = torch.randn(1, 50, 12, requires_grad=True)

    def run(seed: int) -> Tensor:
        group.dropout_seeds = (seed,) if seed else ()
        first, _ = members[0](x), members[1](x)
        return first

    assert torch.equal(run(5), run(5)) and not torch.equal(run(5), run(6))
    torch.testing.assert_close(run(0), separately(members, group, x)[0])
    direction = torch.randn_like(x)
    (gradient,) = torch.autograd.grad(run(5).sum(), x)
    with torch.no_grad():  # linear in x while the mask stands still
        base, moved = run(5).sum(), None
        x.data += direction
        moved = run(5).sum()
    torch.testing.assert_close(moved - base, (gradient * direction).sum(), rtol=1e-3, atol=1e-3)
