"""fill="neighbours": a pruned patch moves as the kept ones moved that were nearest to it, against loops."""

from __future__ import annotations

import pytest
import torch
from settings import BACKBONES, dense, images

import vitrim
from vitrim.core import filling
from vitrim.core.filling import mean_update, restore_by_neighbours
from vitrim.core.packing import pack

ROWS = {row.name: row for row in BACKBONES}


def slow(x, kept, update, k=10):
    """One token at a time."""
    rows = []
    for row in x:
        near = sorted(range(len(kept)), key=lambda j: float((kept[j] - row).square().sum()))[:k]
        rows.append(sum(update[j] for j in near) / len(near))
    return torch.stack(rows)


@pytest.mark.parametrize("m", [1, 4, 10, 30])
def test_the_mean_update_is_that_of_the_ten_nearest(m, monkeypatch):
    g = torch.Generator().manual_seed(m)
    x, kept, update = (torch.randn(3, n, 6, generator=g, dtype=torch.float64) for n in (7, m, m))
    ours = mean_update(x + 100, kept + 100, update)
    theirs = torch.stack([slow(*image) for image in zip(x, kept, update, strict=True)])
    torch.testing.assert_close(ours, theirs)
    monkeypatch.setattr(filling, "LARGEST", 2 * m)  # two rows at a time
    torch.testing.assert_close(mean_update(x + 100, kept + 100, update), theirs)


def reference(model, image, counts):
    """Random scores are given: the tokens kept in the blocks `counts`, and dense features, step by step backwards."""
    x, p = model.norm_pre(model._pos_embed(model.patch_embed(image[None]))), model.num_prefix_tokens
    steps = []
    for i, block in enumerate(model.blocks):
        middle = x + block.ls1(block.attn(block.norm1(x)))
        if i in counts:
            steps.append((middle[0], counts[i]))
            middle = middle[:, [*range(p), *(p + j for j in counts[i])]]
        x = middle + block.ls2(block.mlp(block.norm2(middle)))
    x = x[0]
    for before, index in reversed(steps):
        kept = before[[*range(p), *(p + j for j in index)]]
        gone = [j for j in range(len(before) - p) if j not in index]
        whole = before.clone()
        whole[:p], whole[[p + j for j in index]] = x[:p], x[p:]
        rows = [p + j for j in gone]
        whole[rows] = before[rows] + slow(before[rows], kept[p:], (x - kept)[p:])
        x = whole
    return model.norm(x)


@torch.no_grad()
def test_dense_features_equal_the_method_written_out():
    row = ROWS["distilled"]
    model, x, given = dense(row).double(), images(row).double(), torch.rand(2, 25, dtype=torch.float64)
    fast = vitrim.reduce(model, "topk", keep=(0.6, 0.5), at=(1, 2))
    features = fast.forward_features(x, scores=given, restore=True, fill="neighbours")
    for ours, image, scores in zip(features, x, given, strict=True):
        first = scores.topk(15).indices.tolist()
        second = scores[first].topk(8).indices.tolist()
        torch.testing.assert_close(ours, reference(model, image, {1: first, 2: second}), rtol=1e-6, atol=1e-6)


def test_images_that_keep_numbers_of_their_own_are_filled_one_by_one():
    g = torch.Generator().manual_seed(0)
    x, kept = torch.randn(3, 2 + 30, 6, generator=g, dtype=torch.float64), torch.rand(3, 30, generator=g) > 0.6
    kept[1] = False
    kept[1, :3] = True  # fewer than ten
    kept[2] = True  # none is dropped
    packed = pack(kept, 2)
    after = packed.shrink(x, 2)
    y = after + torch.randn(after.shape, generator=g, dtype=torch.float64)
    whole = restore_by_neighbours(packed, y, x, 2)
    for image in range(3):
        alone = vitrim.Keep(kept[image].nonzero().T)
        own = packed.layout.pad(y)[image, : 2 + int(kept[image].sum())][None]
        torch.testing.assert_close(whole[image : image + 1], restore_by_neighbours(alone, own, x[image : image + 1], 2))
    assert torch.equal(whole[2, 2:], packed.layout.pad(y)[2, 2:32])


@torch.no_grad()
def test_where_every_patch_has_an_owner_nothing_is_filled():
    model, x = dense(ROWS["deit"]), images(ROWS["deit"])
    for method in ("bat", "tome", "dpcknn"):
        fast = vitrim.reduce(model, method)
        last, near = (fast.forward_features(x, restore=True, fill=fill) for fill in ("last", "neighbours"))
        assert torch.equal(last, near)


@torch.no_grad()
def test_the_members_of_a_fused_token_are_filled_as_if_they_had_been_dropped():
    g = torch.Generator().manual_seed(0)
    x, index = torch.randn(2, 1 + 30, 6, generator=g), torch.stack([torch.randperm(30, generator=g)[:12] for _ in "ab"])
    keep, fuse = vitrim.Keep(index), vitrim.Fuse(index, torch.rand(2, 30, generator=g).scatter(1, index, 0.0))
    y = keep.shrink(x, 1) + torch.randn(2, 13, 6, generator=g)
    fused = torch.cat([y, torch.randn(2, 1, 6, generator=g)], dim=1)
    assert torch.equal(restore_by_neighbours(fuse, fused, x, 1), restore_by_neighbours(keep, y, x, 1))


@torch.no_grad()
def test_intermediates_take_it():
    fast, x = vitrim.reduce(dense(ROWS["deit"]), "topk", keep=0.5, at=(1, 2)), images(ROWS["deit"])
    options = dict(indices=[0, 3], intermediates_only=True, output_fmt="NLC", fill="neighbours")
    first, last = fast.forward_intermediates(x, norm=True, **options)
    assert torch.equal(last, fast.forward_features(x, restore=True, fill="neighbours")[:, 1:])
    assert torch.equal(
        first,
        dense(ROWS["deit"]).forward_intermediates(x, norm=True, indices=[0], intermediates_only=True, output_fmt="NLC")[
            0
        ],
    )
