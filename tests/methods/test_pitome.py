"""PiToMe: exactness against the method's steps written out in loops, in both halves of the depth; refusals."""

from __future__ import annotations

import math

import pytest
import torch
from settings import BACKBONES, dense, images
from torch import Tensor

import vitrim
from vitrim.methods.parts import large
from vitrim.methods.pitome import PiToMe, energy

ROWS = {row.name: row for row in BACKBONES}


# -- the method, one image, one token at a time


def elu(z: float) -> float:
    return z if z >= 0 else math.exp(z) - 1


def cosines(keys: Tensor) -> list[list[float]]:
    n = len(keys)
    return [[float(keys[i] @ keys[j] / keys[i].norm() / keys[j].norm()) for j in range(n)] for i in range(n)]


def joins(keys: Tensor, r: int, margin: float, late: bool) -> dict[int, int]:
    """Which token joins which."""
    alike, n = cosines(keys), len(keys)
    energies = [sum(elu(alike[i][j] - margin) for j in range(n)) / n for i in range(n)]
    order = sorted(range(n), key=lambda i: -energies[i])
    order = order[: 2 * r] if late else order
    a, b = order[0::2], order[1::2]
    best = {i: max(b, key=lambda j: alike[i][j]) for i in a}
    moving = sorted(a, key=lambda i: -alike[i][best[i]])[:r]
    return {i: best[i] for i in moving}


def step(x: Tensor, sizes: list[float], into: dict[int, int], prefix: int):
    """Features and sizes after the joins, in the order of the tokens that stay."""
    stay = [j for j in range(len(sizes)) if j not in into]
    members = {j: [j, *(i for i in into if into[i] == j)] for j in stay}
    total = {j: sum(sizes[i] for i in members[j]) for j in stay}
    rows = [sum(sizes[i] * x[prefix + i] for i in members[j]) / total[j] for j in stay]
    return torch.cat([x[:prefix], torch.stack(rows)]), [total[j] for j in stay]


def reference(model, image, keep: float, margin: float, proportional: bool):
    """Features after the final norm, as a set of patch tokens, and the sizes of each, for one image."""
    x, prefix, depth = model.norm_pre(model._pos_embed(model.patch_embed(image[None])))[0], model.num_prefix_tokens, 4
    sizes = [1.0] * (len(x) - prefix)
    for i, block in enumerate(model.blocks):
        bias = torch.tensor([0.0] * prefix + [math.log(s) if proportional else 0.0 for s in sizes], dtype=x.dtype)
        h = block.norm1(x[None])
        k = block.attn.qkv(h)[0].unflatten(1, (3, block.attn.num_heads, -1))[:, 1]
        x = x + block.ls1(block.attn(h, attn_mask=bias.expand(1, 1, len(x), -1)))[0]
        r = len(sizes) - math.floor(len(sizes) * keep)
        into = joins(k[prefix:].mean(dim=1), r, margin * (1 - i / depth), late=i >= depth / 2)
        x, sizes = step(x, sizes, into, prefix)
        x = x + block.ls2(block.mlp(block.norm2(x[None])))[0]
    return model.norm(x), sizes


def by_value(rows: Tensor) -> Tensor:
    return rows[rows[:, 0].argsort()]


@torch.no_grad()
@pytest.mark.parametrize("name", ["deit", "distilled", "gap_no_cls"])
@pytest.mark.parametrize(("keep", "margin", "proportional"), [(0.9, 0.75, True), (0.6, 0.3, False)])
def test_pitome_equals_the_method_written_out(name, keep, margin, proportional):
    model, x = dense(ROWS[name]).double(), images(ROWS[name]).double()
    fast = vitrim.reduce(model, PiToMe(keep=keep, margin=margin, proportional=proportional))
    features, learning, p = fast.forward_features(x), fast(x, losses=True)[1], model.num_prefix_tokens
    for ours, sizes, image in zip(features, learning.tokens.sizes, x, strict=True):
        theirs, weights = reference(model, image, keep, margin, proportional)
        assert sorted(sizes.tolist()) == sorted(weights)
        torch.testing.assert_close(ours[:p], theirs[:p], rtol=1e-5, atol=1e-6)
        torch.testing.assert_close(by_value(ours[p:]), by_value(theirs[p:]), rtol=1e-5, atol=1e-6)


def test_rare_tokens_are_protected():
    """Nine tokens alike and one that is like none: in the second half of the depth it stays alone."""
    g = torch.Generator().manual_seed(0)
    common, rare = torch.randn(1, 8, generator=g), torch.randn(1, 8, generator=g)
    keys = torch.cat([common + 0.1 * torch.randn(9, 8, generator=g), rare])[None]
    assert int(energy(keys, 0.4)[0].argmin()) == 9


def test_energies_of_many_images_and_of_large_maps_are_the_same(monkeypatch):
    keys = torch.randn(5, 30, 8)
    whole = energy(keys, 0.5)
    monkeypatch.setitem(large.LARGEST, "cpu", 200)
    torch.testing.assert_close(energy(keys, 0.5), whole)


@pytest.mark.parametrize("keep", [0.5, 0.1])
def test_at_most_half_of_the_tokens_merge(keep):
    assert vitrim.profile(vitrim.reduce(dense(ROWS["deit"]), PiToMe(keep=keep))).tokens == [13, 7, 4, 2]


def test_the_budget_solves_the_keep_rate():
    fast = vitrim.reduce(dense(ROWS["deit"]), "pitome", macs=0.8)
    assert 0.75 < vitrim.profile(fast).share <= 0.8


@pytest.mark.parametrize(
    ("options", "says"),
    [
        (dict(keep=1.5), "keep=1.5"),
        (dict(margin=2), "margin=2: give a number from 0 to 1"),
        (dict(proportional=1), "give True or False"),
        (dict(macs=0.1), "pitome cannot meet macs=0.1"),
    ],
)
def test_refusals(options, says):
    with pytest.raises(ValueError, match=says):
        vitrim.reduce(dense(ROWS["deit"]), "pitome", **options)
