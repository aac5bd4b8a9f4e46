"""ToMe: exactness against the paper's algorithm written out in loops, sizes, proportional attention, refusals."""

from __future__ import annotations

import math

import pytest
import torch
from settings import BACKBONES, capture, dense, images, randomise
from timm.models.vision_transformer import VisionTransformer

import vitrim
from vitrim import Join
from vitrim.methods.tome import bipartite_soft_matching, mean_keys

ROWS = {row.name: row for row in BACKBONES}


# -- the paper, one image, one token at a time


def attend(block, x, sizes, prefix, proportional):
    """x + attention(norm1(x)) with log sizes on the logits; also the keys of every head [h, n, d]."""
    attn, h = block.attn, block.norm1(x)
    q, k, v = attn.qkv(h).reshape(len(h), 3, attn.num_heads, attn.head_dim).permute(1, 2, 0, 3)
    bias = torch.tensor([0.0] * prefix + [math.log(s) for s in sizes], dtype=x.dtype)
    rows = []
    for head in range(attn.num_heads):
        logits = q[head] @ k[head].T / math.sqrt(attn.head_dim) + (bias if proportional else 0)
        rows.append(logits.softmax(dim=-1) @ v[head])
    return x + block.ls1(attn.proj(torch.cat(rows, dim=1))), k


def proposals(keys, prefix):
    """(similarity, token of A, its partner in B), best first; A and B alternate over the whole sequence."""
    metric = keys.mean(dim=0)
    a = [i for i in range(prefix, len(metric)) if i % 2 == 0]
    b = [i for i in range(prefix, len(metric)) if i % 2 == 1]
    found = []
    for i in a:
        alike = [float(torch.cosine_similarity(metric[i], metric[j], dim=0)) for j in b]
        found.append((max(alike), i, b[alike.index(max(alike))]))
    return sorted(found, reverse=True), a, b


def merge(x, sizes, keys, r, prefix):
    """Features and sizes after the r best proposals hold, in the order: prefix, unmerged A, B."""
    found, a, b = proposals(keys, prefix)
    joins = {i: j for _, i, j in found[:r]}
    rows, weights = list(x[:prefix]), []
    for j in [i for i in a if i not in joins] + b:
        members = [j] + [i for i, to in joins.items() if to == j]
        total = sum(sizes[i - prefix] for i in members)
        rows.append(sum(sizes[i - prefix] * x[i] for i in members) / total)
        weights.append(total)
    return torch.stack(rows), weights


def reference(model, image, rs, proportional=True):
    """Features after the final norm and sizes, for one image."""
    x, prefix = model.norm_pre(model._pos_embed(model.patch_embed(image[None])))[0], model.num_prefix_tokens
    sizes = [1] * (len(x) - prefix)
    for block, r in zip(model.blocks, rs, strict=True):
        x, keys = attend(block, x, sizes, prefix, proportional)
        r = min(r, len(sizes) // 2)
        if r:
            x, sizes = merge(x, sizes, keys, r, prefix)
        x = x + block.ls2(block.mlp(block.norm2(x)))
    return model.norm(x), sizes


@torch.no_grad()
@pytest.mark.parametrize("name", ["deit", "distilled", "registers", "gap_no_cls", "rectangle"])
@pytest.mark.parametrize("rs", [(4, 4, 4, 4), (12, 0, 3, 20), (1, 30, 1, 1)])
def test_tome_equals_the_paper_written_out(name, rs):
    model, x = dense(ROWS[name]).double(), images(ROWS[name]).double()
    fast = vitrim.reduce(model, "tome", r=rs)
    ours = fast.forward_features(x)
    for features, image in zip(ours, x, strict=True):
        torch.testing.assert_close(features, reference(model, image, rs)[0], rtol=1e-7, atol=1e-7)


@torch.no_grad()
def test_without_proportional_attention():
    model, x = dense(ROWS["deit"]).double(), images(ROWS["deit"]).double()
    ours = vitrim.reduce(model, "tome", r=5, proportional=False).forward_features(x)
    theirs = torch.stack([reference(model, image, [5] * 4, proportional=False)[0] for image in x])
    torch.testing.assert_close(ours, theirs, rtol=1e-7, atol=1e-7)
    assert (ours - vitrim.reduce(model, "tome", r=5).forward_features(x)).abs().max() > 1e-3


@torch.no_grad()
def test_average_pooling_weighs_by_size():
    row = ROWS["gap"]
    model, x = dense(row).double(), images(row).double()
    pooled = []
    for image in x:
        features, sizes = reference(model, image, [5] * 4)
        weights = torch.tensor(sizes, dtype=x.dtype)
        pooled.append((weights[:, None] * features[1:]).sum(dim=0) / weights.sum())
    theirs = model.head(model.fc_norm(torch.stack(pooled)))
    torch.testing.assert_close(vitrim.reduce(model, "tome", r=5)(x), theirs, rtol=1e-7, atol=1e-7)


# -- the map


def some_merge(n=11, r=4, first=0, batch=3):
    sizes = torch.randint(1, 9, (batch, n)).float()
    return Join(*bipartite_soft_matching(torch.randn(batch, n, 8), r, first), sizes), sizes


@pytest.mark.parametrize(("n", "r", "first"), [(11, 4, 0), (11, 5, 1), (10, 5, 0), (10, 5, 1), (2, 1, 1), (3, 1, 0)])
def test_the_short_way_equals_the_weighted_sum(n, r, first):
    reduction, sizes = some_merge(n, r, first)
    x = torch.randn(3, 2 + n, 6)
    written_out = reduction.as_merge()
    torch.testing.assert_close(reduction.shrink(x, 2), written_out.shrink(x, 2))
    torch.testing.assert_close(reduction.shrink_size(sizes).sum(1), sizes.sum(1))
    torch.testing.assert_close(written_out.shrink_size(sizes), reduction.shrink_size(sizes))
    for lead, group in zip(reduction.lead, written_out.group, strict=True):
        assert torch.equal(group[lead], torch.arange(n - r))  # the lead of every group is a member of it


def test_tokens_left_alone_pass_bit_by_bit():
    reduction, sizes = some_merge()
    x = torch.randn(3, 11, 6)
    alone = reduction.total == sizes.gather(1, reduction.lead)
    same = (reduction.shrink(x) == x.gather(1, reduction.lead[..., None].expand(-1, -1, 6))).all(dim=-1)
    assert torch.equal(alone, same) and alone.any() and not alone.all()
    assert (reduction.shares() < 1).all()


@torch.no_grad()
def test_sizes_are_conserved_and_owners_agree_with_them():
    fast, x = vitrim.reduce(dense(ROWS["deit"]), "tome", r=6), images(ROWS["deit"])
    tokens = fast(x, losses=True)[1].tokens
    assert tokens.size.sum(dim=1).tolist() == [25.0, 25.0]
    for owners, sizes in zip(tokens.owners(), tokens.size, strict=True):
        assert owners.bincount(minlength=tokens.n).tolist() == sizes.tolist()


@torch.no_grad()
def test_sizes_stay_exact_in_bfloat16():
    model = VisionTransformer(img_size=160, patch_size=4, embed_dim=16, depth=4, num_heads=2, num_classes=3)
    fast = vitrim.reduce(randomise(model).eval().bfloat16(), "tome", r=2000)
    tokens = fast(torch.randn(1, 3, 160, 160).bfloat16(), losses=True)[1].tokens
    assert tokens.n == 100 and tokens.size.sum() == 1600


# -- how it behaves in a model


@torch.no_grad()
def test_bfloat16_autocast_compares_in_float32():
    fast, x = vitrim.reduce(dense(ROWS["deit"]), "tome", r=4), images(ROWS["deit"])
    seen = capture(fast)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        fast(x)
    for _, evidence, _, reduction in seen:
        _, moved, _ = bipartite_soft_matching(mean_keys(evidence), 4, first=1)
        assert evidence.k.dtype == torch.bfloat16 and reduction.shares().dtype == torch.float32
        assert torch.equal(reduction.moved, moved)
    assert len(seen) == 4


def test_gradients_reach_every_token_and_parameter():
    fast, x = vitrim.reduce(dense(ROWS["gap_no_cls"]), "tome", r=6).train(), images(ROWS["gap_no_cls"])
    fast(x.requires_grad_()).square().sum().backward()
    patches = x.grad.unfold(2, 8, 8).unfold(3, 8, 8).abs().amax(dim=(1, 4, 5))
    assert (patches > 0).all()
    assert all(p.grad is not None and torch.isfinite(p.grad).all() for p in fast.parameters())


@torch.no_grad()
def test_merged_patches_share_the_update_of_their_token():
    fast, x = vitrim.reduce(dense(ROWS["deit"]), "tome", r=9, at=1), images(ROWS["deit"])
    grid = fast.forward_features(x, restore=True)[:, 1:]
    same = fast.forward_features(x, restore=True, fill="zeros")[:, 1:]
    assert grid.shape == (2, 25, 48) and torch.equal(grid, same)  # nothing was pruned


def test_the_budget_solves_r():
    model = dense(ROWS["deit"])
    fast = vitrim.reduce(model, "tome", macs=0.7)
    (method,) = fast.methods
    assert isinstance(method.r, int) and vitrim.profile(fast).share <= 0.7
    assert vitrim.profile(vitrim.reduce(model, "tome", r=method.r - 1)).share > 0.7


@pytest.mark.parametrize(
    ("options", "says"),
    [
        (dict(r=-1), "whole number"),
        (dict(r=2.5), "whole number"),
        (dict(r=True), "whole number"),
        (dict(r="3"), "whole number"),
        (dict(r=()), "one for each place"),
        (dict(r=(3, 2)), ": 2 for 4 places"),
        (dict(r=(3, 2), at=(0, 1, 2)), ": 2 for 3 places"),
        (dict(r=3, at=(4,)), "not a block"),
        (dict(keep=0.5), "no option keep"),
    ],
)
def test_refusals(options, says):
    with pytest.raises(ValueError, match=says):
        vitrim.reduce(dense(ROWS["deit"]), "tome", **options)
