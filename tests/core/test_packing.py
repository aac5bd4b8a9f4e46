"""Ragged batches: the layout, packing and putting back, and attention image by image, against plain loops."""

from __future__ import annotations

from itertools import pairwise

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from vitrim import Keep, Tokens
from vitrim.core.attention import attention, padded_attention, ragged_attention, varlen_attn
from vitrim.core.packing import Layout, Pack, pack

C = 4


def _random_kept(b: int, n: int, seed: int) -> Tensor:
    """A mask with at least one token in each image, counts far apart."""
    g = torch.Generator().manual_seed(seed)
    kept = torch.rand(b, n, generator=g) < torch.rand(b, 1, generator=g)
    kept[torch.arange(b), torch.randint(n, (b,), generator=g)] = True
    return kept


def _by_image(kept: Tensor, x: Tensor, prefix: int) -> list[Tensor]:
    """The rows of every image that stay, in plain Python."""
    return [
        torch.stack([*row[:prefix], *[row[prefix + j] for j in range(kept.shape[1]) if stays[j]]])
        for row, stays in zip(x, kept.tolist(), strict=True)
    ]


def _unpacked(reduction: Pack, rows: Tensor) -> list[Tensor]:
    layout = reduction.layout
    parts = dict(zip(layout.order, rows[0].split(layout.lengths), strict=True))
    return [parts[image] for image in range(layout.batch)]


@settings(max_examples=40, deadline=None)
@given(st.integers(1, 6), st.integers(1, 9), st.integers(0, 3), st.integers(0, 10**6))
def test_pack_takes_what_stays_and_puts_it_back(b, n, prefix, seed):
    kept, x = _random_kept(b, n, seed), torch.randn(b, prefix + n, C)
    reduction = pack(kept, prefix)
    rows = reduction.shrink(x, prefix)
    assert rows.shape == (1, b * prefix + int(kept.sum()), C)
    for ours, slow in zip(_unpacked(reduction, rows), _by_image(kept, x, prefix), strict=True):
        assert torch.equal(ours, slow)
    assert list(reduction.layout.lengths) == sorted(reduction.layout.lengths)
    assert torch.equal(reduction.restore(rows, x, prefix), x)
    moved = reduction.restore(rows + 1, x, prefix) - x
    stays = F.pad(kept, (prefix, 0), value=True).unsqueeze(-1).float().expand_as(x)
    torch.testing.assert_close(moved, stays)


@settings(max_examples=20, deadline=None)
@given(st.integers(1, 5), st.integers(1, 7), st.integers(0, 2), st.integers(0, 10**6))
def test_the_rest_is_what_does_not_stay(b, n, prefix, seed):
    kept, x = _random_kept(b, n, seed), torch.randn(b, prefix + n, C)
    reduction = pack(kept, prefix)
    rest = reduction.take_rest(x, prefix)
    assert rest.shape == (1, int((~kept).sum()), C)
    changed = reduction.put_rest(x, rest + 1, prefix) - x
    gone = F.pad(~kept, (prefix, 0), value=False).unsqueeze(-1).float().expand_as(x)
    torch.testing.assert_close(changed, gone)
    parts = dict(zip(reduction.rest_layout.order, rest[0].split(reduction.rest_layout.lengths), strict=True))
    for image in range(b):
        if image in parts:
            assert torch.equal(parts[image], x[image, prefix:][~kept[image]])
        else:
            assert kept[image].all()


def test_owners_and_representatives_of_images_with_different_counts():
    kept = torch.tensor([[True, False, True, True], [False, False, True, False]])
    reduction = pack(kept, prefix=1)
    assert reduction.owners(4).tolist() == [[0, -1, 1, 2], [-1, -1, 0, -1]]
    assert reduction.representatives().tolist() == [[0, 2, 3], [2, -1, -1]]
    assert reduction.layout == Layout(lengths=(2, 4), order=(1, 0), prefix=1, batch=2)


def _ragged(seed: int = 0, b: int = 6, n: int = 9, prefix: int = 2) -> tuple[Tokens, Tensor, Tensor]:
    """Dense tokens packed once; also the mask and the dense features."""
    kept, x = _random_kept(b, n, seed), torch.randn(b, prefix + n, C)
    return Tokens(x, prefix, (1, n)).shrink(pack(kept, prefix), remember=True), kept, x


def test_tokens_know_their_batch_and_owners():
    tokens, kept, x = _ragged()
    assert tokens.batch == 6 and tokens.n == int(kept.sum(dim=1).max())
    assert torch.equal(tokens.owners() >= 0, kept)
    for image, row in enumerate(tokens.origin()):
        assert row[row >= 0].tolist() == kept[image].nonzero().flatten().tolist()
    assert torch.equal(tokens.full_grid(), x)
    zeros = tokens.full_grid("zeros")[:, 2:]
    assert torch.equal(zeros, x[:, 2:] * kept.unsqueeze(-1))


def test_prefix_and_patch_rows_lie_where_the_layout_says():
    tokens, kept, x = _ragged()
    layout = tokens.layout
    assert torch.equal(layout.prefix_rows(tokens.x), x[:, :2])
    patches = dict(zip(layout.patches.order, tokens.patches[0].split(layout.patches.lengths), strict=True))
    for image in range(6):
        assert torch.equal(patches[image], x[image, 2:][kept[image]])
    padded = layout.patches.pad(tokens.patches, value=7.0)
    for image, count in enumerate(kept.sum(dim=1).tolist()):
        assert torch.equal(padded[image, :count], x[image, 2:][kept[image]])
        assert (padded[image, count:] == 7.0).all()


def test_pooling_and_whole_images_go_bucket_by_bucket():
    tokens, kept, x = _ragged(seed=3, b=9, n=5)
    calls = []

    def mean(part):
        calls.append(len(part))
        return part.mean(dim=1)

    pooled = tokens.layout.pooled(mean, tokens.x)
    slow = torch.stack([rows.mean(dim=0) for rows in _by_image(kept, x, 2)])
    torch.testing.assert_close(pooled, slow)
    assert len(calls) == len(set(tokens.layout.lengths)) < 9, "images of equal length go together"
    centred = tokens.layout.each(lambda part: part - part.mean(dim=1, keepdim=True), tokens.x)
    back = tokens.layout.pooled(lambda part: part.sum(dim=1), centred)
    torch.testing.assert_close(back, torch.zeros_like(back), atol=1e-5, rtol=0)


def test_a_ragged_batch_can_be_packed_again():
    tokens, kept, x = _ragged(seed=5)
    again = torch.zeros(6, tokens.n, dtype=torch.bool)
    for image, count in enumerate(kept.sum(dim=1).tolist()):
        again[image, :count:2] = True
    twice = tokens.shrink(pack(again, 2, tokens.layout), remember=True)
    for image, row in enumerate(twice.origin()):
        assert row[row >= 0].tolist() == kept[image].nonzero().flatten().tolist()[::2]
    expected = [rows[[0, 1, *range(2, len(rows), 2)]] for rows in _by_image(kept, x, 2)]
    parts = dict(zip(twice.layout.order, twice.x[0].split(twice.layout.lengths), strict=True))
    for image in range(6):
        assert torch.equal(parts[image], expected[image])
    assert torch.equal(twice.full_grid(), x)


def test_gradients_reach_what_was_packed():
    kept, x = _random_kept(3, 5, 1), torch.randn(3, 6, C, requires_grad=True)
    reduction = pack(kept, 1)
    reduction.restore(2 * reduction.shrink(x, 1), x, 1).sum().backward()
    stays = F.pad(kept, (1, 0), value=True).unsqueeze(-1).expand_as(x)
    assert torch.equal(x.grad, torch.where(stays, 2.0, 1.0))


def test_other_reductions_cannot_follow():
    tokens, _, _ = _ragged()
    with pytest.raises(ValueError, match="Keep cannot follow where images keep different numbers"):
        tokens.shrink(Keep(torch.zeros(6, 1, dtype=torch.long)))
    merged = Tokens(torch.randn(2, 3, C), 0, (1, 3), size=torch.ones(2, 3))
    with pytest.raises(ValueError, match="cannot be packed"):
        merged.shrink(pack(torch.ones(2, 3, dtype=torch.bool), 0))


# -- attention


def _heads(lengths: tuple[int, ...], h: int = 3, d: int = 8, dtype=torch.float32, device="cpu") -> list[Tensor]:
    """Queries, keys and values of a ragged batch, as strided as a fused projection leaves them."""
    qkv = torch.randn(1, sum(lengths), 3, h, d, dtype=dtype, device=device)
    return list(qkv.permute(2, 0, 3, 1, 4).unbind(0))


def _slow_attention(q: Tensor, k: Tensor, v: Tensor, layout: Layout) -> Tensor:
    """Softmax of the logits written out, one image at a time."""
    rows = []
    for start, length in zip(layout.starts, layout.lengths, strict=False):
        one = slice(start, start + length)
        logits = q[0, :, one] @ k[0, :, one].transpose(1, 2) * q.shape[-1] ** -0.5
        rows.append((logits.softmax(dim=-1) @ v[0, :, one]).transpose(0, 1).flatten(1))
    return torch.cat(rows).unsqueeze(0)


@pytest.mark.parametrize("lengths", [(5,), (1, 1), (2, 3, 3, 3, 7), (4, 4, 4), (1, 2, 3, 4)])
def test_ragged_attention_is_attention_of_each_image(lengths):
    layout = Layout(lengths, tuple(range(len(lengths))), 0, len(lengths))
    q, k, v = _heads(lengths)
    slow = _slow_attention(q, k, v, layout)
    torch.testing.assert_close(ragged_attention(q, k, v, layout), slow, rtol=1e-5, atol=1e-6)
    torch.testing.assert_close(padded_attention(q, k, v, layout), slow, rtol=1e-5, atol=1e-6)
    torch.testing.assert_close(attention(q, k, v, layout=layout), slow, rtol=1e-5, atol=1e-6)


def test_images_of_equal_length_share_one_kernel_call(monkeypatch):
    plain, calls = F.scaled_dot_product_attention, []
    monkeypatch.setattr(
        F, "scaled_dot_product_attention", lambda q, *a, **k: calls.append(q.shape) or plain(q, *a, **k)
    )
    lengths = (2, 3, 3, 3, 7)
    ragged_attention(*_heads(lengths), Layout(lengths, (0, 1, 2, 3, 4), 0, 5))
    assert [tuple(shape) for shape in calls] == [(1, 3, 2, 8), (3, 3, 3, 8), (1, 3, 7, 8)]


def test_a_layout_without_images_gives_no_rows():
    layout = Layout((), (), 0, 3)
    assert ragged_attention(*_heads(()), layout).shape == (1, 0, 24)
    assert layout.longest == 0


def _kernel_on_cpu(q, k, v, bounds_q, bounds_k, longest_q, longest_k, **options):
    """Stands in for torch's `varlen_attn`, as its documentation has it: rows [T, h, d], cumulative lengths, maxima."""
    assert bounds_q.dtype == bounds_k.dtype == torch.int32 and options in ({}, {"num_splits": 1})
    edges = bounds_q.tolist()
    assert edges == bounds_k.tolist() and edges[0] == 0 and edges[-1] == len(q)
    assert longest_q == longest_k == max(b - a for a, b in pairwise(edges))
    parts = [tuple(t[a:b].transpose(0, 1) for t in (q, k, v)) for a, b in pairwise(edges)]
    return torch.cat([F.scaled_dot_product_attention(*part).transpose(0, 1) for part in parts])


def test_the_variable_length_kernel_is_called_as_documented(monkeypatch):
    monkeypatch.setattr("vitrim.core.attention.varlen_attn", _kernel_on_cpu)
    monkeypatch.setattr("vitrim.core.attention._has_kernel", lambda q: True)
    lengths = (2, 3, 3, 7)
    layout = Layout(lengths, (3, 1, 0, 2), 1, 4)
    q, k, v = _heads(lengths)
    torch.testing.assert_close(
        ragged_attention(q, k, v, layout), _slow_attention(q, k, v, layout), rtol=1e-5, atol=1e-6
    )


@pytest.mark.skipif(not torch.cuda.is_available() or varlen_attn is None, reason="needs CUDA and torch's varlen_attn")
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_the_variable_length_kernel_agrees(dtype):
    lengths = (17, 54, 54, 99, 100, 197)
    layout = Layout(lengths, tuple(range(6)), 1, 6)
    q, k, v = _heads(lengths, h=6, d=64, dtype=dtype, device="cuda")
    slow = _slow_attention(q.float(), k.float(), v.float(), layout)
    torch.testing.assert_close(ragged_attention(q, k, v, layout).float(), slow, rtol=2e-2, atol=2e-2)
