"""Reductions one by one, against plain Python; and the row helpers that they stand on."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from vitrim import Fuse, Keep, Mask, Merge
from vitrim.core.reductions import add_rows, behind_prefix, put_rows, take_rows

B, P, N, C = 3, 2, 7, 4


def features(n: int = N) -> Tensor:
    return torch.randn(B, P + n, C, generator=torch.Generator().manual_seed(n))


def kept(m: int) -> Tensor:
    return torch.stack([torch.randperm(N, generator=torch.Generator().manual_seed(j))[:m] for j in range(B)])


@settings(max_examples=25, deadline=None)
@given(st.integers(1, 4), st.integers(1, 9), st.integers(0, 9), st.sampled_from([(), (3,), (2, 3)]), st.data())
def test_row_helpers_are_indexing(b, n, k, rest, data):
    x = torch.randn(b, n, *rest)
    index = torch.tensor(data.draw(st.lists(st.integers(0, n - 1), min_size=b * k, max_size=b * k)), dtype=torch.int64)
    index = index.reshape(b, k)
    taken = take_rows(x, index)
    assert taken.shape == (b, k, *rest)
    assert all(torch.equal(taken[i, j], x[i, index[i, j]]) for i in range(b) for j in range(k))
    rows, added = torch.randn(b, k, *rest), x.clone()
    for i in range(b):
        for j in range(k):
            added[i, index[i, j]] += rows[i, j]
    torch.testing.assert_close(add_rows(x, index, rows), added)
    last = x.clone()
    if all(len(set(row.tolist())) == k for row in index):
        for i in range(b):
            last[i, index[i]] = rows[i]
        assert torch.equal(put_rows(x, index, rows), last)


def test_row_helpers_leave_their_input_alone():
    x, index = features(), kept(3)
    before = x.clone()
    put_rows(x, index, torch.zeros(B, 3, C))
    add_rows(x, index, torch.ones(B, 3, C))
    assert torch.equal(x, before)


def test_row_helpers_carry_gradients():
    x = features().double().requires_grad_()
    rows = torch.randn(B, 3, C, dtype=torch.float64, requires_grad=True)
    for function in (put_rows, add_rows):
        assert torch.autograd.gradcheck(lambda a, r, f=function: f(a, kept(3), r), (x, rows))
    assert torch.autograd.gradcheck(lambda a: take_rows(a, kept(3)), (x,))


def test_behind_prefix():
    index = torch.tensor([[4, 0], [1, 2]])
    assert behind_prefix(index, 0) is index
    assert behind_prefix(index, 2).tolist() == [[0, 1, 6, 2], [0, 1, 3, 4]]


def test_keep():
    x, index = features(), kept(3)
    reduction = Keep(index)
    for i in range(B):
        rows = [*range(P), *(P + j for j in index[i].tolist())]
        assert torch.equal(reduction.shrink(x, P)[i], x[i, rows])
        owners = [index[i].tolist().index(j) if j in index[i] else -1 for j in range(N)]
        assert reduction.owners(N)[i].tolist() == owners
    assert torch.equal(reduction.representatives(), index)
    assert torch.equal(reduction.shrink_size(torch.ones(B, N)), torch.ones(B, 3))
    assert not reduction.weighs


def test_keep_hands_out_the_rest():
    order = torch.stack([torch.randperm(N) for _ in range(B)])
    reduction, x = Keep(order[:, :3], rest=order[:, 3:]), features()
    rest = reduction.take_rest(x, P)
    assert all(torch.equal(rest[i, j], x[i, P + order[i, 3 + j]]) for i in range(B) for j in range(N - 3))
    put = reduction.put_rest(x, rest + 1, P)
    torch.testing.assert_close(put.sum(), x.sum() + rest.numel())
    assert torch.equal(reduction.shrink(put, P), reduction.shrink(x, P))


def test_fuse():
    x, index = features(), kept(3)
    weights = torch.rand(B, N).scatter(1, index, 0.0)
    reduction = Fuse(index, weights)
    after = reduction.shrink(x, P)
    assert after.shape == (B, P + 4, C)
    assert torch.equal(after[:, :-1], Keep(index).shrink(x, P))
    for i in range(B):
        fused = sum(weights[i, j] * x[i, P + j] for j in range(N))
        torch.testing.assert_close(after[i, -1], fused)
        heaviest = max(range(N), key=lambda j, i=i: weights[i, j].item())
        assert reduction.representatives()[i].tolist() == [*index[i].tolist(), heaviest]
        owners = [index[i].tolist().index(j) if j in index[i] else 3 for j in range(N)]
        assert reduction.owners(N)[i].tolist() == owners
    assert torch.equal(reduction.shrink_size(torch.full((B, N), 2.0)), torch.tensor([[2.0, 2.0, 2.0, 1.0]] * B))
    assert not reduction.weighs


def _merge(**more) -> Merge:
    group = torch.tensor([[0, 1, 0, 2, 1, 0, 3], [3, 2, 1, 0, 0, 1, 1], [0, 0, 0, 0, 1, 2, 3]])
    lead = torch.tensor([[0, 1, 3, 6], [3, 2, 1, 0], [2, 4, 5, 6]])
    count = torch.zeros(B, 4).scatter_add(1, group, torch.ones(B, N))
    return Merge(group, 1 / count.gather(1, group), 4, lead, **more)


def test_merge():
    x, reduction = features(), _merge()
    after = reduction.shrink(x, P)
    assert torch.equal(after[:, :P], x[:, :P])
    for i in range(B):
        for j in range(4):
            members = [k for k in range(N) if reduction.group[i, k] == j]
            torch.testing.assert_close(after[i, P + j], x[i, [P + k for k in members]].mean(dim=0))
            assert reduction.shrink_size(torch.ones(B, N))[i, j] == len(members)
    assert torch.equal(reduction.owners(N), reduction.group)
    assert reduction.weighs


def test_mask():
    x, mask = features(), torch.tensor([[1.0, 0, 1, 0, 0, 1, 1]] * B)
    reduction = Mask(mask)
    assert reduction.shrink(x, P) is x
    y = torch.randn(B, P + N, C)
    back = reduction.restore(y, x, P)
    assert torch.equal(back[:, :P], y[:, :P])
    assert torch.equal(back[:, P:][mask > 0], y[:, P:][mask > 0])
    assert torch.equal(back[:, P:][mask == 0], x[:, P:][mask == 0])
    assert reduction.owners(N).tolist() == [[0, -1, 2, -1, -1, 5, 6]] * B


@pytest.mark.parametrize(
    "reduction",
    [Keep(kept(3)), Fuse(kept(3), torch.rand(B, N)), _merge(), Mask(torch.rand(B, N))],
    ids=lambda r: type(r).__name__,
)
def test_half_precision_features_stay_half_precision(reduction):
    x = features().bfloat16()
    after = reduction.shrink(x, P)
    assert after.dtype == torch.bfloat16
    assert reduction.restore(after, x, P).dtype == torch.bfloat16
