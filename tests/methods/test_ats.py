"""ATS: exactness against the paper written out, each image its own number of tokens in one batch, costs, refusals."""

from __future__ import annotations

import math

import pytest
import torch
from counting import counting
from settings import BACKBONES, dense, images

import vitrim
from vitrim.methods.ats import sampled

ROWS = {row.name: row for row in BACKBONES}


# -- the paper, one image, one token at a time


def hits(scores, points):
    """Numbers of the tokens that the evenly spaced points fall on when the scores are laid end to end."""
    reached, total = [], 0.0
    for score in scores:
        total += score
        reached.append(total)
    wanted = [(2 * j + 1) / (2 * points) for j in range(points)]
    return sorted({next(i for i, end in enumerate(reached) if end >= point) for point in wanted})


def reference(model, image, points, places, class_tokens):
    """Features of the tokens left, after the final norm, and their patches, for one image."""
    x, prefix = model.norm_pre(model._pos_embed(model.patch_embed(image[None])))[0], model.num_prefix_tokens
    left = list(range(len(x) - prefix))
    for i, block in enumerate(model.blocks):
        attn, h = block.attn, block.norm1(x)
        q, k, v = attn.qkv(h).reshape(len(x), 3, attn.num_heads, attn.head_dim).permute(1, 2, 0, 3)
        maps = (q @ k.transpose(1, 2) / math.sqrt(attn.head_dim)).softmax(dim=-1)
        x = x + block.ls1(attn.proj((maps @ v).transpose(0, 1).flatten(1)))
        if i in places:
            scores = [0.0] * len(left)
            for head in range(attn.num_heads):
                row = maps[head][class_tokens].mean(dim=0)
                own = [float(row[prefix + j] * v[head, prefix + j].norm()) for j in range(len(left))]
                scores = [total + s / sum(own) / attn.num_heads for total, s in zip(scores, own, strict=True)]
            stay = hits(scores, points)
            x, left = x[[*range(prefix), *(prefix + j for j in stay)]], [left[j] for j in stay]
        x = x + block.ls2(block.mlp(block.norm2(x)))
    return model.norm(x), left


@torch.no_grad()
@pytest.mark.parametrize("name", ["deit", "distilled", "registers", "rectangle"])
@pytest.mark.parametrize(("keep", "at"), [(0.7, (1, 2, 3)), (1.0, (0, 1, 2, 3)), (0.4, (1, 3)), (0.2, (2,))])
def test_ats_equals_the_paper_written_out(name, keep, at):
    model, x = dense(ROWS[name]).double(), images(ROWS[name], batch=3).double()
    n, class_tokens = math.prod(model.patch_embed.grid_size), [0, 1] if name == "distilled" else [0]
    fast = vitrim.reduce(model, "ats", keep=keep, at=at)
    logits, records, learning = fast(x, trace=True, losses=True)
    counts = []
    for j, image in enumerate(x):
        theirs, left = reference(model, image, math.ceil(keep * n - 1e-9), at, class_tokens)
        kept = records[-1].kept[j]
        assert kept[kept >= 0].tolist() == left
        ours = learning.tokens.layout.pad(learning.tokens.x)[j, : len(theirs)]
        torch.testing.assert_close(ours, theirs, rtol=1e-5, atol=1e-6)
        counts.append(len(left))
    assert torch.equal(torch.stack([w.selected.sum(dim=1) for w in learning.place_records])[-1], torch.tensor(counts))
    assert logits.shape == (3, 7)


def test_significance_in_few_tokens_keeps_few():
    even = torch.full((1, 20), 1 / 20)
    steep = torch.tensor([[0.5, 0.4] + [0.1 / 18] * 18])
    assert sampled(even, 20).sum() == 20 and sampled(even, 10).sum() == 10
    assert sampled(steep, 10).sum() < 6 and sampled(steep, 10)[0, :2].all()


@torch.no_grad()
@pytest.mark.parametrize("name", ["deit", "gap", "eva02"])
def test_images_keep_their_own_numbers_in_one_batch(name):
    x = images(ROWS[name], batch=5)
    fast = vitrim.reduce(dense(ROWS[name]), "ats", keep=0.8)
    together, learning = fast(x, losses=True)
    counts = torch.stack([w.selected.sum(dim=1) for w in learning.place_records], dim=1)
    assert len(set(counts[:, -1].tolist())) > 1
    assert learning.tokens.x.shape[:2] == (1, int(counts[:, -1].sum()) + 5 * fast.body.prefix)
    torch.testing.assert_close(together, torch.cat([fast(image[None]) for image in x]), rtol=1e-5, atol=1e-5)


@torch.no_grad()
def test_the_cost_of_an_image_is_counted_exactly():
    fast, x = vitrim.reduce(dense(ROWS["deit"]), "ats", keep=0.8), images(ROWS["deit"], batch=1)
    with counting() as count:
        _, learning = fast(x, losses=True)
    counts = torch.stack([w.selected.sum(dim=1) for w in learning.place_records], dim=1).long()
    assert vitrim.image_macs(fast, counts).tolist() == [count.macs]
    assert count.macs < vitrim.profile(fast).macs  # the plan is that of an image that keeps all K


@torch.no_grad()
def test_dense_features_of_a_ragged_batch():
    fast, x = vitrim.reduce(dense(ROWS["deit"]), "ats", keep=0.6), images(ROWS["deit"], batch=3)
    grids = fast.forward_features(x, restore=True)
    assert grids.shape == (3, 26, 48)
    alone = torch.cat([fast.forward_features(image[None], restore=True) for image in x])
    torch.testing.assert_close(grids, alone, rtol=1e-5, atol=1e-5)


def test_gradients_flow_through_the_samples():
    fast, x = vitrim.reduce(dense(ROWS["deit"]), "ats", keep=0.6).train(), images(ROWS["deit"])
    fast(x).square().sum().backward()
    assert all(p.grad is not None and torch.isfinite(p.grad).all() for p in fast.parameters())


@pytest.mark.parametrize(
    ("name", "options", "says"),
    [
        ("deit", dict(keep=0.0), "keep=0.0"),
        ("deit", dict(at=(4,)), "not a block"),
        ("deit", dict(r=3), "no option r"),
        ("gap_no_cls", {}, r"needs a \[CLS\] token"),
        ("swin", {}, "ats"),
    ],
)
def test_refusals(name, options, says):
    with pytest.raises(ValueError, match=says):
        vitrim.reduce(dense(ROWS[name]), "ats", **options)


def test_nothing_may_follow_in_a_stack():
    with pytest.raises(ValueError, match="evit cannot work on such a batch: leave one out"):
        vitrim.reduce(dense(ROWS["deit"]), [vitrim.ATS(at=1), vitrim.EViT(at=2)])
