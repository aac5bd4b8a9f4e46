"""score="shift" and "shift-mlp": how far tokens move, against the blocks run one by one; what idles keeps its own; no
block before; scores from outside go first."""

from __future__ import annotations

import itertools

import pytest
import torch
from settings import BACKBONES, capture, dense, images

import vitrim

ROWS = {row.name: row for row in BACKBONES}
BOTH = pytest.mark.parametrize("score", ["shift", "shift-mlp"])


def halves(block, x):
    """The tokens after the attention of a block, and after the block."""
    middle = x + block.ls1(block.attn(block.norm1(x)))
    return middle, middle + block.ls2(block.mlp(block.norm2(middle)))


def scored(model, image, counts: dict[int, int], score: str):
    """For every place: the scores of the tokens before it, one image, keeping the `counts` best."""
    x, p = model.norm_pre(model._pos_embed(model.patch_embed(image[None]))), model.num_prefix_tokens
    shifts, found = None, []
    for i, block in enumerate(model.blocks):
        start = x
        middle = x + block.ls1(block.attn(block.norm1(x)))
        if i in counts:
            found.append(shifts)
            best = sorted(range(len(shifts)), key=lambda j: -shifts[j])[: counts[i]]
            rows = [*range(p), *(p + j for j in best)]
            start, middle = start[:, rows], middle[:, rows]
        x = middle + block.ls2(block.mlp(block.norm2(middle)))
        before = start if score == "shift" else middle
        shifts = [float((x[0, p + j] - before[0, p + j]).square().sum() ** 0.5) for j in range(x.shape[1] - p)]
    return found, model.norm(x)[0]


@torch.no_grad()
@BOTH
@pytest.mark.parametrize("name", ["deit", "gap_no_cls", "registers"])
def test_the_scores_are_the_distances_that_tokens_move(name, score):
    model, x = dense(ROWS[name]).double(), images(ROWS[name]).double()
    fast = vitrim.reduce(model, "topk", keep=0.6, at=(1, 2, 3), score=score)
    seen = capture(fast)
    features = fast.forward_features(x)
    for j, image in enumerate(x):
        found, last = scored(model, image, {1: 15, 2: 9, 3: 6}, score)
        for (*_, reduction), theirs in zip(seen, found, strict=True):
            torch.testing.assert_close(reduction.scores[j].tolist(), theirs, rtol=1e-6, atol=1e-8)
        torch.testing.assert_close(features[j], last, rtol=1e-6, atol=1e-6)


@torch.no_grad()
def test_a_merged_token_moves_from_the_mean_of_its_members():
    """ToMe merges in block 1, and shift chooses in block 2: both from the same tokens, those after the merge."""
    model, x = dense(ROWS["gap_no_cls"]).double(), images(ROWS["gap_no_cls"]).double()
    fast = vitrim.reduce(model, [vitrim.ToMe(r=6, at=1), vitrim.TopK(keep=0.5, at=2, score="shift")])
    seen = capture(fast)
    fast(x)
    (tokens, _, _, merge), (*_, keep) = seen
    start = halves(model.blocks[0], model.norm_pre(model._pos_embed(model.patch_embed(x))))[1]
    merged = merge.shrink(tokens.x)
    after = merged + model.blocks[1].ls2(model.blocks[1].mlp(model.blocks[1].norm2(merged)))
    torch.testing.assert_close(keep.scores, (after - merge.shrink(start)).norm(dim=2), rtol=1e-9, atol=1e-9)


@torch.no_grad()
@BOTH
def test_what_idles_keeps_how_far_it_moved_last(score):
    fast, x = vitrim.reduce(dense(ROWS["gap_no_cls"]), "idlevit", keep=0.5, score=score), images(ROWS["gap_no_cls"])
    seen = capture(fast)
    fast(x)
    assert len(seen) == 3
    for (_, _, _, before), (_, _, _, after) in itertools.pairwise(seen):
        idle = torch.ones(2, 25, dtype=torch.bool).scatter(1, before.index, False)
        assert torch.equal(after.scores[idle], before.scores[idle])
        assert (after.scores[~idle] != before.scores[~idle]).all()


@torch.no_grad()
def test_the_scores_are_float32_under_autocast_and_carry_no_gradient():
    fast, x = vitrim.reduce(dense(ROWS["deit"]), "topk", keep=0.5, score="shift"), images(ROWS["deit"])
    seen = capture(fast)
    with torch.autocast("cpu", dtype=torch.bfloat16), torch.enable_grad():
        fast(x)
    assert seen and all(r.scores.dtype == torch.float32 and not r.scores.requires_grad for *_, r in seen)


@torch.no_grad()
def test_scores_from_outside_go_first():
    x, given = images(ROWS["deit"]), torch.rand(2, 25)
    fast = vitrim.reduce(dense(ROWS["deit"]), "topk", keep=0.5, at=(1, 2), score="shift")
    seen = capture(fast)
    fast(x, scores=given)
    first, second = (reduction for *_, reduction in seen)
    assert torch.equal(first.scores, given) and torch.equal(second.scores, given.gather(1, first.index))


@torch.no_grad()
@pytest.mark.parametrize("name", ["deit", "gap_no_cls"])
def test_fused_tokens_weigh_by_class_attention_or_by_their_share_of_the_way(name):
    fast, x = vitrim.reduce(dense(ROWS[name]), "evit", keep=0.5, at=2, score="shift"), images(ROWS[name])
    seen = capture(fast)
    fast(x)
    _, evidence, _, fuse = seen[0]
    shares = fuse.scores / fuse.scores.sum(dim=1, keepdim=True)
    weights = evidence.class_attention() if ROWS[name].cls else shares
    torch.testing.assert_close(fuse.weights, weights.scatter(1, fuse.index, 0.0))


@BOTH
@pytest.mark.parametrize(
    ("name", "method", "options", "says"),
    [
        (
            "deit",
            "evit",
            dict(at=0),
            r"before block 0 they have not moved yet: give evit later blocks, such as at=\(1,\)",
        ),
        ("deit", "idlevit", dict(blocks=(0, 2), keep=0.5), r"give idlevit later blocks, such as blocks=\(1,\)"),
        ("swin", "idlevit", dict(blocks=(2,), keep=[0.5]), r"before block 2 they have not moved yet.*blocks=\(3,\)"),
        ("deit", "diffrate", dict(pruned=2), "give diffrate later blocks"),
    ],
)
def test_a_block_without_one_before_is_refused(name, method, options, says, score):
    with pytest.raises(ValueError, match=says):
        vitrim.reduce(dense(ROWS[name]), method, score=score, **options)


@BOTH
def test_places_where_nothing_happens_need_none(score):
    fast = vitrim.reduce(dense(ROWS["deit"]), "diffrate", pruned=[0, 3, 0, 3], score=score)
    assert fast(images(ROWS["deit"])).isfinite().all()
