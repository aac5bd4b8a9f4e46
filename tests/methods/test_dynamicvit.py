"""DynamicViT: exactness against the paper written out, masked = gathered, what training sees, refusals."""

from __future__ import annotations

import itertools
import math
import warnings

import pytest
import timm
import torch
from settings import BACKBONES, dense, images, randomise

import vitrim
from vitrim.common.on_meta import on_meta

ROWS = {row.name: row for row in BACKBONES}


def put_on(name: str, **options) -> vitrim.ReducedViT:
    """DynamicViT with random parameters on the row's model, in eval mode."""
    with pytest.warns(vitrim.UntrainedWarning, match="dynamicvit.*vitrim finetune"):
        fast = vitrim.reduce(dense(ROWS[name]), "dynamicvit", **options)
    randomise(fast.methods[0], seed=1)
    return fast.eval()


# -- the paper, one image, one token at a time


def keep_probability(predictor, patches):
    """Local half beside the mean of the global halves, token by token; then the probability to keep."""
    local = [predictor.local(token) for token in patches]
    half = local[0].shape[0] // 2
    together = sum(token[half:] for token in local) / len(local)
    return [float(predictor.decide(torch.cat([token[:half], together])).softmax(dim=0)[0]) for token in local]


def reference(fast, image, counts, at):
    """Features after the final norm of one image, and the patches that are left."""
    model, prefix = fast.backbone, fast.backbone.num_prefix_tokens
    x = model.norm_pre(model._pos_embed(model.patch_embed(image[None])))
    left = list(range(x.shape[1] - prefix))
    for i, block in enumerate(model.blocks):
        if i in at and counts[at.index(i)] < len(left):
            scores = keep_probability(fast.methods[0].predictors[at.index(i)], x[0, prefix:])
            best = sorted(range(len(left)), key=lambda j: -scores[j])[: counts[at.index(i)]]
            x, left = x[:, [*range(prefix), *(prefix + j for j in best)]], [left[j] for j in best]
        x = block(x)
    return model.norm(x)[0], left


@torch.no_grad()
@pytest.mark.parametrize("name", ["deit", "distilled", "registers", "gap_no_cls", "rectangle"])
def test_dynamicvit_equals_the_paper_written_out(name):
    fast, x = put_on(name, keep=0.7).double(), images(ROWS[name]).double()
    n = math.prod(fast.body.grid())
    counts = [math.floor(0.7 ** (s + 1) * n) for s in range(3)]
    ours, kept = fast.forward_features(x), fast(x, trace=True)[1][-1].kept
    for features, patches, image in zip(ours, kept, x, strict=True):
        theirs, left = reference(fast, image, counts, (1, 2, 3))
        assert patches.tolist() == left
        torch.testing.assert_close(features, theirs, rtol=1e-8, atol=1e-8)


def test_counts_follow_the_image_in_hand():
    """24 x 24 is 9 patches where the model's own 32 x 56 are 28: shares are of the patches there are."""
    fast = put_on("dynamic", keep=0.6)
    assert vitrim.profile(fast, (32, 56)).tokens == [28, 16, 10, 6]
    assert vitrim.profile(fast, (24, 24)).tokens == [9, 5, 3, 1]
    assert fast.forward_features(torch.randn(1, 3, 24, 24)).shape[1] == 1 + 1


@pytest.mark.parametrize("keep", [(0.5, 0.5, 0.2), (0.64, 0.36, 0.04)])
def test_one_share_for_each_place(keep):
    fast, x = put_on("deit", keep=keep), images(ROWS["deit"])
    counts = [25, *(max(1, math.floor(share * 25 + 1e-9)) for share in keep)]
    assert vitrim.profile(fast).tokens == counts
    assert [record.kept.shape[1] for record in fast(x, trace=True)[1]] == counts


def test_the_published_costs():
    """The figures of spec/methods.md, predictors included (printed: 4.0, 3.4, 3.0, 2.5, 2.2, 1.9, 1.7)."""
    with on_meta():
        model = timm.create_model("deit_small_patch16_224")
    for keep, gmacs in [(0.9, 4.04), (0.8, 3.46), (0.7, 2.98), (0.6, 2.57), (0.5, 2.23), (0.4, 1.94), (0.3, 1.71)]:
        with pytest.warns(vitrim.UntrainedWarning):
            assert abs(vitrim.profile(vitrim.reduce(model, "dynamicvit", keep=keep)).gmacs - gmacs) < 0.01


# -- masked and gathered


@torch.no_grad()
def test_masked_and_gathered_leave_the_same_records():
    fast, x = put_on("deit", keep=0.7), images(ROWS["deit"])
    _, records = fast(x, trace=True)
    fast.methods[0].masked = True
    _, masks = fast(x, trace=True)
    for one, other in zip(records[1:], masks[1:], strict=True):
        assert other.mask.sum(dim=1).tolist() == [one.kept.shape[1]] * 2
        assert torch.equal(one.owners < 0, other.owners < 0)


@torch.no_grad()
@pytest.mark.parametrize("fill", ["last", "zeros", "neighbours"])
def test_masked_and_gathered_agree_on_dense_features(fill):
    fast, x = put_on("deit", keep=0.7), images(ROWS["deit"])
    gathered = fast.forward_features(x, restore=True, fill=fill)
    fast.methods[0].masked = True
    torch.testing.assert_close(fast.forward_features(x, restore=True, fill=fill), gathered, rtol=1e-5, atol=1e-5)


def test_which_form_runs():
    (method,) = put_on("deit").methods
    assert not method.masked and method.train().masked
    method.masked = False
    assert not method.masked and not method.eval().masked
    method.masked = None
    assert not method.masked and method.train().masked
    with pytest.raises(ValueError, match="evit has no masked form"):
        vitrim.EViT().masked = True


# -- training


def test_training_draws_masks_that_multiply_and_reach_the_predictors():
    fast, x = put_on("deit", keep=0.7).train(), images(ROWS["deit"], batch=4)
    logits, records = fast(x, trace=True)
    masks = [record.mask for record in records[1:]]
    assert records[0].mask is None and all(mask.shape == (4, 25) for mask in masks)
    for before, after in itertools.pairwise(masks):
        assert ((after.round() == 0) | (before.round() == 1)).all()  # what was dropped stays dropped
    assert all((mask - mask.round()).abs().max() < 1e-6 for mask in masks)
    ratio = sum((mask.mean(dim=1) - 0.7 ** (s + 1)).square().mean() for s, mask in enumerate(masks))
    (logits.square().sum() + ratio).backward()
    assert all(p.grad is not None and p.grad.abs().max() > 0 for p in fast.methods[0].predictors.parameters())


def test_the_logits_alone_train_every_predictor():
    fast, x = put_on("deit", keep=0.7).train(), images(ROWS["deit"], batch=4)
    fast(x).square().sum().backward()
    assert all(p.grad.abs().max() > 0 for p in fast.methods[0].predictors.parameters())


@pytest.mark.parametrize("name", ["deit", "gap", "gap_no_cls", "avgmax", "max"])
def test_a_dropped_token_has_no_part_in_the_logits(name):
    fast, x = put_on(name, keep=0.7), images(ROWS[name], batch=1).requires_grad_()
    fast.methods[0].masked = True
    logits, learning = fast(x, losses=True)
    grad = torch.autograd.grad(logits.sum(), x)[0].unfold(2, 8, 8).unfold(3, 8, 8).abs().amax(dim=(0, 1, 4, 5))
    assert (grad > 0).all()  # every patch was seen by the blocks before the first place
    dropped = learning.tokens.weight == 0
    swapped = learning.tokens.with_x(torch.where(dropped[..., None], 99.0, learning.tokens.x))
    assert dropped.any() and torch.equal(fast.body.head(swapped), logits)


def test_gathers_train_where_asked_for():
    fast, x = put_on("deit", keep=0.7).train(), images(ROWS["deit"])
    fast.methods[0].masked = False
    assert [record.kept.shape[1] for record in fast(x, trace=True)[1]] == [25, 17, 12, 8]


# -- warnings and refusals


def test_loading_trained_weights_warns_of_nothing(tmp_path):
    model = timm.create_model("vit_tiny_patch16_224", depth=4, img_size=64, num_classes=3)
    with pytest.warns(vitrim.UntrainedWarning):
        fast = vitrim.reduce(model, "dynamicvit", keep=0.6).eval()
    fast.save(tmp_path)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        again = vitrim.load(tmp_path)
    x = torch.randn(2, 3, 64, 64)
    torch.testing.assert_close(again(x), fast(x))


def test_one_warning_names_every_method_that_learns():
    model = dense(ROWS["deit"])
    stack = [vitrim.DynamicViT(at=1), vitrim.IdleViT(score="predictor", blocks=3)]
    with pytest.warns(vitrim.UntrainedWarning, match="dynamicvit, idlevit") as caught:
        vitrim.reduce(model, stack)
    assert len(caught) == 1 and caught[0].filename == __file__


@pytest.mark.parametrize(
    ("options", "says"),
    [
        (dict(keep=0.0), "keep=0.0"),
        (dict(keep=(0.5, 0.6, 0.4)), "pruned tokens do not return"),
        (dict(keep=(0.5, 0.4)), "2 keep rates for 3 places"),
        (dict(at=(9,)), "not a block"),
        (dict(r=3), "no option r"),
    ],
)
def test_refusals(options, says):
    with pytest.raises(ValueError, match=says):
        vitrim.reduce(dense(ROWS["deit"]), "dynamicvit", **options)
