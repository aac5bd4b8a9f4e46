"""Evo-ViT: exactness against the paper written out, slow-fast updating, published costs, refusals."""

from __future__ import annotations

import csv
import math

import pytest
import timm
import torch
from settings import BACKBONES, dense, images

import vitrim
from vitrim.common.on_meta import on_meta

ROWS = {row.name: row for row in BACKBONES}


# -- the paper, one image, one token at a time


def half_blocks(block, x):
    """Residuals of attention and MLP for tokens x [n, c], and class attention [n - prefix] (mean over heads)."""
    attn, h = block.attn, block.norm1(x[None])
    q, k, v = attn.qkv(h).reshape(len(x), 3, attn.num_heads, attn.head_dim).permute(1, 2, 0, 3)
    maps = (q @ k.transpose(1, 2) / math.sqrt(attn.head_dim)).softmax(dim=-1)
    first = block.ls1(attn.proj((maps @ v).transpose(0, 1).flatten(1)))
    second = block.ls2(block.mlp(block.norm2((x + first)[None])))[0]
    return first, second, maps


def reference(model, image, counts, momentum, class_tokens):
    """Features of all tokens after the final norm, for one image; counts: informative tokens in every block."""
    x, prefix = model.norm_pre(model._pos_embed(model.patch_embed(image[None])))[0], model.num_prefix_tokens
    n, running = len(x) - prefix, None
    for block, k in zip(model.blocks, counts, strict=True):
        if k == n:
            slow, inputs = list(range(n)), x
        else:
            order = sorted(range(n), key=lambda j: -running[j])
            slow, fast = order[:k], order[k:]
            total = sum(running[j] for j in fast)
            representative = sum(running[j] / total * x[prefix + j] for j in fast)
            inputs = torch.stack([*x[:prefix], *(x[prefix + j] for j in slow), representative])
        first, second, maps = half_blocks(block, inputs)
        seen = maps[:, class_tokens].mean(dim=(0, 1))[prefix:]
        if k < n:  # the others get the representative's residuals
            for j in fast:
                x[prefix + j] = x[prefix + j] + first[-1] + second[-1]
        for row, j in enumerate([*range(prefix), *(prefix + j for j in slow)]):
            x[j] = x[j] + first[row] + second[row]
        attention = {j: float(seen[row]) for row, j in enumerate(slow)}
        running = [
            attention.get(j, 0.0)
            if running is None
            else momentum * running[j] + (1 - momentum) * attention[j]
            if j in attention
            else running[j]
            for j in range(n)
        ]
    return model.norm(x)


@torch.no_grad()
@pytest.mark.parametrize("name", ["deit", "distilled", "registers", "rectangle"])
@pytest.mark.parametrize(
    ("options", "shares"),
    [
        (dict(keep=0.5), (1, 0.5, 0.5, 0.5)),
        (dict(keep=0.7, stages=3, momentum=0.8), (1, 0.7, 0.49, 0.343)),
        (dict(keep=(0.6, 0.3), blocks=(1, 3)), (1, 0.6, 1, 0.3)),
    ],
)
def test_evovit_equals_the_paper_written_out(name, options, shares):
    model, x = dense(ROWS[name]).double(), images(ROWS[name]).double()
    n, class_tokens = math.prod(model.patch_embed.grid_size), [0, 1] if name == "distilled" else [0]
    ours = vitrim.reduce(model, "evovit", **options).forward_features(x)
    counts = [math.floor(share * n + 1e-9) for share in shares]
    for features, image in zip(ours, x, strict=True):
        theirs = reference(model, image, counts, options.get("momentum", 0.5), class_tokens)
        torch.testing.assert_close(features, theirs, rtol=1e-6, atol=1e-6)


@torch.no_grad()
def test_the_others_get_one_and_the_same_update():
    fast, x = vitrim.reduce(dense(ROWS["deit"]), "evovit", keep=0.4, blocks=3), images(ROWS["deit"])
    _, records = fast(x, trace=True)
    before, after = fast.forward_intermediates(x, indices=[2, 3], intermediates_only=True, output_fmt="NLC")
    update = after - before
    for moved, owners in zip(update, records[3].owners, strict=True):
        others = moved[owners == 10]  # token 10 is the representative of all but the 10 informative ones
        assert others.shape[0] == 15 and (others - others[0]).abs().max() < 1e-5
        assert (moved[owners != 10] - others[0]).abs().amax(dim=1).min() > 1e-3


def test_the_published_costs(shared):
    """IdleViT's Table 2 and supplement: rates that fall in three stages from the fifth block."""
    with on_meta():
        model = timm.create_model("deit_small_patch16_224")
    lines = shared("spec", "published.csv").read_text().splitlines()
    rows = [row for row in csv.DictReader(lines) if row["method"] == "evo-vit"]
    assert len(rows) == 6
    for row in rows:
        fast = vitrim.reduce(model, "evovit", keep=float(row["keep"]), stages=3)
        assert abs(vitrim.profile(fast).gmacs - float(row["gmacs"])) < 0.08


def test_the_papers_own_setting_costs_what_it_prints():
    """Half of the tokens from the fifth block on: DeiT-S 3.0, DeiT-B 11.6 GMACs (as BAT's Table 1 lists them)."""
    for name, gmacs in [("deit_small_patch16_224", 3.0), ("deit_base_patch16_224", 11.6)]:
        with on_meta():
            model = timm.create_model(name)
        assert abs(vitrim.profile(vitrim.reduce(model, "evovit")).gmacs / gmacs - 1) < 0.02


def test_gradients_reach_every_parameter():
    fast, x = vitrim.reduce(dense(ROWS["deit"]), "evovit", keep=0.4).train(), images(ROWS["deit"])
    fast(x).square().sum().backward()
    assert all(p.grad is not None and p.grad.abs().max() > 0 for p in fast.parameters())


def test_global_attention_is_not_formed_where_nobody_asks():
    model = dense(ROWS["deit"])
    assert vitrim.profile(vitrim.reduce(model, "evovit", keep=1.0)).macs == vitrim.profile(model).macs
    one = vitrim.profile(vitrim.reduce(model, "evovit", blocks=1, keep=0.4))
    assert [block.method_macs > 0 for block in one.blocks] == [True, True, False, False]


@pytest.mark.parametrize(
    ("options", "says"),
    [
        (dict(keep=0.0), "keep=0.0"),
        (dict(blocks=(0, 1)), "block 0 has none"),
        (dict(blocks=(9,)), "not a block"),
        (dict(stages=0), "stages=0"),
        (dict(stages=4), "stages=4 for 3 blocks"),
        (dict(momentum=1.0), "momentum=1.0"),
        (dict(keep=(0.5, 0.4)), "2 keep rates for 3 places"),
        (dict(at=3), "no option at"),
    ],
)
def test_refusals(options, says):
    with pytest.raises(ValueError, match=says):
        vitrim.reduce(dense(ROWS["deit"]), "evovit", **options)


def test_a_model_without_cls_is_refused():
    with pytest.raises(ValueError, match=r"needs a \[CLS\] token"):
        vitrim.reduce(dense(ROWS["gap_no_cls"]), "evovit")
