"""DPC-KNN: exactness against the paper's clustering written out in loops, sizes, refusals."""

from __future__ import annotations

import math

import pytest
import torch
from settings import BACKBONES, capture, dense, images

import vitrim
from vitrim.methods.dpcknn import nearest_peaks

ROWS = {row.name: row for row in BACKBONES}


# -- the paper, one image, one token at a time


def clusters(z, m, k):
    """Numbers of the m centres, and the centre of every token, by rho, delta and their product."""
    n, channels = z.shape
    apart = [[float((z[i] - z[j]).square().sum()) / channels for j in range(n)] for i in range(n)]
    near = [sorted(apart[i][j] for j in range(n) if j != i)[: min(k, n - 1)] for i in range(n)]
    rho = [math.exp(-sum(row) / len(row)) for row in near]
    delta = []
    for i in range(n):
        denser = [math.sqrt(apart[i][j]) for j in range(n) if (rho[j], -j) > (rho[i], -i)]  # ties by number
        delta.append(min(denser) if denser else max(math.sqrt(d) for d in apart[i]))
    centres = sorted(sorted(range(n), key=lambda i: -rho[i] * delta[i])[:m])
    return centres, [i if i in centres else min(centres, key=lambda c: apart[i][c]) for i in range(n)]


@pytest.mark.parametrize(("n", "m", "k"), [(12, 5, 3), (12, 1, 5), (12, 11, 5), (5, 2, 9), (2, 1, 5), (40, 20, 5)])
def test_clusters_equal_the_paper_written_out(n, m, k):
    z = torch.randn(4, n, 6, dtype=torch.float64)
    groups = nearest_peaks(z, m, k)
    for image, lead, group in zip(z, groups.lead, groups.group, strict=True):
        centres, joined = clusters(image, m, k)
        assert lead.tolist() == centres
        assert lead[group].tolist() == joined


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize(("n", "m", "channels"), [(12, 5, 48), (30, 9, 192), (59, 20, 384)])
def test_mutual_nearest_neighbours_are_settled_by_number(n, m, channels, dtype):
    """With neighbours=1 they are equally dense, to the bit."""
    z = torch.randn(4, n, channels, dtype=dtype)
    z = torch.cat([z, z.flip(1)])
    groups = nearest_peaks(z, m, 1)
    for image, lead, group in zip(z, groups.lead, groups.group, strict=True):
        centres, joined = clusters(image.double(), m, 1)
        assert lead.tolist() == centres and lead[group].tolist() == joined
        alone = nearest_peaks(image[None], m, 1)
        assert torch.equal(alone.lead[0], lead) and torch.equal(alone.group[0], group)


def reference(model, image, counts, k, proportional):
    """Features after the final norm and sizes of the patch tokens, for one image."""
    x, prefix = model.norm_pre(model._pos_embed(model.patch_embed(image[None])))[0], model.num_prefix_tokens
    sizes = [1] * (len(x) - prefix)
    for block, m in zip(model.blocks, counts, strict=True):
        if m < len(sizes):
            centres, joined = clusters(x[prefix:], m, k)
            members = [[i for i, centre in enumerate(joined) if centre == c] for c in centres]
            total = [sum(sizes[i] for i in group) for group in members]
            rows = [sum(sizes[i] * x[prefix + i] for i in g) / t for g, t in zip(members, total, strict=True)]
            x, sizes = torch.cat([x[:prefix], torch.stack(rows)]), total
        bias = torch.tensor([0.0] * prefix + [math.log(s) for s in sizes], dtype=x.dtype)
        mask = bias.expand(1, 1, len(x), -1) if proportional else None
        x = block(x[None], attn_mask=mask)[0]
    return model.norm(x), sizes


@torch.no_grad()
@pytest.mark.parametrize("name", ["deit", "distilled", "gap_no_cls"])
@pytest.mark.parametrize("proportional", [True, False])
def test_dpcknn_equals_the_paper_written_out(name, proportional):
    model, x = dense(ROWS[name]).double(), images(ROWS[name]).double()
    fast = vitrim.reduce(model, "dpcknn", keep=0.6, neighbours=4, proportional=proportional)
    features, learning = fast.forward_features(x), fast(x, losses=True)[1]
    for ours, sizes, image in zip(features, learning.tokens.size, x, strict=True):
        theirs, weights = reference(model, image, (25, 15, 9, 6), 4, proportional)
        assert sizes.tolist() == weights
        torch.testing.assert_close(ours, theirs, rtol=1e-7, atol=1e-7)


@torch.no_grad()
def test_bfloat16_autocast_measures_in_float32():
    fast, x = vitrim.reduce(dense(ROWS["deit"]), "dpcknn", keep=0.6), images(ROWS["deit"])
    seen = capture(fast)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        fast(x)
    for tokens, _, place, reduction in seen:
        groups = nearest_peaks(tokens.patches, fast.methods[0].count(place, tokens.n), 5)
        assert torch.equal(reduction.lead, groups.lead) and torch.equal(reduction.as_merge().group, groups.group)
    assert len(seen) == 3


def test_gradients_reach_every_patch():
    fast, x = vitrim.reduce(dense(ROWS["gap_no_cls"]), "dpcknn", keep=0.4, at=0).train(), images(ROWS["gap_no_cls"])
    fast(x.requires_grad_()).square().sum().backward()
    assert (x.grad.unfold(2, 8, 8).unfold(3, 8, 8).abs().amax(dim=(1, 4, 5)) > 0).all()


def test_the_budget_solves_the_keep_rate():
    profile = vitrim.profile(vitrim.reduce(dense(ROWS["deit"]), "dpcknn", macs=0.7))
    assert 0.6 < profile.share <= 0.7


@pytest.mark.parametrize(
    ("options", "says"),
    [
        (dict(keep=1.5), "keep=1.5"),
        (dict(neighbours=0), "whole number from 1"),
        (dict(neighbours=2.5), "whole number from 1"),
        (dict(at=(7,)), "not a block"),
    ],
)
def test_refusals(options, says):
    with pytest.raises(ValueError, match=says):
        vitrim.reduce(dense(ROWS["deit"]), "dpcknn", **options)
