"""DiffRate: exactness against the method's steps written out in loops, lists and keep rates, refusals."""

from __future__ import annotations

import math

import pytest
import torch
from settings import BACKBONES, capture, dense, images
from torch import Tensor

import vitrim
from vitrim.methods.diffrate import DiffRate
from vitrim.training.shares import turns_by_schedule

ROWS = {row.name: row for row in BACKBONES}


# -- the method, one image, one token at a time


def cosine(a: Tensor, b: Tensor) -> float:
    return float((a / a.norm()) @ (b / b.norm()))


def step(x: Tensor, sizes: list[float], attention: list[float], pruned: int, merged: int, prefix: int):
    """Features [p+n, c] and sizes after one place."""
    n = len(sizes)
    order = sorted(range(n), key=lambda j: -attention[j])[: n - pruned]
    stay, joining = order[: len(order) - merged], order[len(order) - merged :]
    members, size = {j: [j] for j in stay}, {j: sizes[j] for j in stay}
    for j in joining:
        alike = {i: cosine(x[prefix + i], x[prefix + j]) for i in stay}
        into = max(alike, key=lambda i: alike[i])
        members[into].append(j)
        size[into] += sizes[j] * max(alike[into], 0.0)
    rows = [torch.stack([x[prefix + i] for i in members[j]]).mean(dim=0) for j in stay]
    return torch.cat([x[:prefix], torch.stack(rows)]), [size[j] for j in stay]


def reference(model, image, counts: dict[int, tuple[int, int]], proportional: bool):
    """Features after the final norm and sizes of the patch tokens, for one image."""
    x, prefix = model.norm_pre(model._pos_embed(model.patch_embed(image[None])))[0], model.num_prefix_tokens
    sizes = [1.0] * (len(x) - prefix)
    for i, block in enumerate(model.blocks):
        bias = torch.tensor([0.0] * prefix + [math.log(s) if proportional else 0.0 for s in sizes], dtype=x.dtype)
        h = block.norm1(x[None])
        heads = block.attn.num_heads
        q, k, v = block.attn.qkv(h)[0].unflatten(1, (3, heads, -1)).permute(1, 2, 0, 3)
        maps = (q @ k.transpose(1, 2) / q.shape[-1] ** 0.5 + bias).softmax(dim=-1)
        x = x + block.ls1(block.attn.proj((maps @ v).transpose(0, 1).flatten(1)[None]))[0]
        if i in counts:
            attention = maps[:, : 2 if prefix == 2 else 1, prefix:].mean(dim=(0, 1)).tolist()
            x, sizes = step(x, sizes, attention, *counts[i], prefix)
        x = x + block.ls2(block.mlp(block.norm2(x[None])))[0]
    return model.norm(x), sizes


@torch.no_grad()
@pytest.mark.parametrize("name", ["deit", "distilled", "gap"])
@pytest.mark.parametrize("proportional", [True, False])
def test_diffrate_equals_the_method_written_out(name, proportional):
    model, x = dense(ROWS[name]).double(), images(ROWS[name]).double()
    fast = vitrim.reduce(model, DiffRate(pruned=[0, 3, 1, 2], merged=[6, 0, 4, 3], proportional=proportional))
    features, learning = fast.forward_features(x), fast(x, losses=True)[1]
    counts = {0: (0, 6), 1: (3, 0), 2: (1, 4), 3: (2, 3)}
    for ours, sizes, image in zip(features, learning.tokens.sizes, x, strict=True):
        theirs, weights = reference(model, image, counts, proportional)
        torch.testing.assert_close(sizes, torch.tensor(weights, dtype=sizes.dtype), rtol=1e-6, atol=1e-6)
        torch.testing.assert_close(ours, theirs, rtol=1e-6, atol=1e-6)
        assert any(weight % 1 for weight in weights), "those that join count by how alike they are"


def test_a_keep_rate_is_half_pruning_and_half_merging():
    by_rate = vitrim.reduce(dense(ROWS["deit"]), "diffrate", keep=0.7)
    method = by_rate.methods[0]
    assert [method.plan(place, 25) for place in method.places] == [(3, 4)] * 4
    assert vitrim.profile(by_rate).tokens == [18, 13, 10, 7]
    lists = vitrim.reduce(dense(ROWS["deit"]), DiffRate(pruned=[3, 2, 1, 1], merged=[4, 3, 2, 2]))
    assert torch.equal(by_rate(images(ROWS["deit"])), lists(images(ROWS["deit"])))


def test_blocks_by_default():
    deep = ROWS["deit"].build.keywords | {"depth": 12}
    model = ROWS["deit"].build.func(**deep)
    blocks = {name: [p.block for p in vitrim.reduce(model, method).methods[0].places] for name, method in
              (("rate", DiffRate(keep=0.9)), ("lists", DiffRate(pruned=1)))}  # fmt: skip
    assert blocks == {"rate": list(range(2, 12)), "lists": list(range(12))}


@pytest.mark.parametrize(("pruned", "merged"), [(1000, 0), (0, 1000), (1000, 1000), (24, 3), (10, [20, 9, 9, 9])])
def test_one_token_always_stays(pruned, merged):
    fast = vitrim.reduce(dense(ROWS["deit"]), DiffRate(pruned=pruned, merged=merged))
    assert vitrim.profile(fast).tokens[-1] == 1
    assert fast(images(ROWS["deit"])).isfinite().all()


def test_pruned_alone_is_topk_without_rates():
    x, model = images(ROWS["deit"]), dense(ROWS["deit"])
    ours = vitrim.reduce(model, DiffRate(pruned=[5, 4], at=(0, 2)))
    theirs = vitrim.reduce(model, vitrim.TopK(keep=(20 / 25, 16 / 20), at=(0, 2)))
    assert torch.equal(ours(x), theirs(x))


@torch.no_grad()
def test_bfloat16_autocast_compares_in_float32():
    fast, x = vitrim.reduce(dense(ROWS["deit"]), "diffrate", keep=0.6), images(ROWS["deit"])
    seen = capture(fast)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        fast(x)
    for tokens, _, _, reduction in seen:
        moved, lead = (torch.nn.functional.normalize(tokens.take(i).float(), dim=2) for i in
                       (reduction.moved, reduction.lead))  # fmt: skip
        best, into = (moved @ lead.transpose(1, 2)).max(dim=2)
        assert torch.equal(reduction.into, into) and reduction.similar.dtype == torch.float32
        torch.testing.assert_close(reduction.similar, best.clamp(min=0))
    assert len(seen) == 4


def test_gradients_reach_what_stays_and_what_joins():
    model, x = dense(ROWS["gap"]), images(ROWS["gap"]).requires_grad_()
    vitrim.reduce(model, DiffRate(merged=12, at=0)).train()(x).square().sum().backward()
    assert (x.grad.unfold(2, 8, 8).unfold(3, 8, 8).abs().amax(dim=(1, 4, 5)) > 0).all()


def test_the_budget_solves_the_keep_rate():
    fast = vitrim.reduce(dense(ROWS["deit"]), "diffrate", macs=0.7)
    assert 0.65 < vitrim.profile(fast).share <= 0.7 and fast.methods[0].keep < 1


def test_schedules_turn_rates_and_leave_lists_alone():
    rates, lists = (vitrim.reduce(dense(ROWS["deit"]), "diffrate", **o).methods[0] for o in ({}, {"merged": 2}))
    assert turns_by_schedule(rates) and not turns_by_schedule(lists)


def test_what_it_says_of_itself():
    model = dense(ROWS["deit"])
    said = [str(vitrim.reduce(model, "diffrate", **o)).splitlines()[1].strip() for o in (
        {}, {"keep": 0.8}, {"pruned": 2, "merged": [1, 0, 2, 3]}
    )]  # fmt: skip
    assert said[0].startswith("diffrate(keep=0.9) in blocks")
    assert said[1].startswith("diffrate(keep=0.8) in blocks")
    assert said[2].startswith("diffrate(pruned=2, merged=[1, 0, 2, 3]) in blocks")
    method = vitrim.reduce(model, "diffrate", pruned=2, merged=[1, 0, 2, 3]).methods[0]
    assert method.dial_setting == "pruned=2, merged=1 0 2 3"


@pytest.mark.parametrize(
    ("options", "says"),
    [
        (dict(keep=1.5), "keep=1.5"),
        (dict(keep=0.5, merged=3), "keep=0.5 says how many leave"),
        (dict(macs=0.5, merged=3), "says how many leave"),
        (dict(pruned=-1), "pruned=-1: give a whole number from 0"),
        (dict(merged=[1, 2]), r"merged=\(1, 2\): 2 for 4 places"),
        (dict(score="best"), "choose one of"),
    ],
)
def test_refusals(options, says):
    with pytest.raises(ValueError, match=says):
        vitrim.reduce(dense(ROWS["deit"]), "diffrate", **options)


def test_a_model_without_cls_takes_another_score():
    with pytest.raises(ValueError, match=r'diffrate with score="cls" needs a \[CLS\] token'):
        vitrim.reduce(dense(ROWS["gap_no_cls"]), "diffrate")
    vitrim.reduce(dense(ROWS["gap_no_cls"]), "diffrate", score="tokens")(images(ROWS["gap_no_cls"]))
