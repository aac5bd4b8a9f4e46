"""Losses of stacks: every place answers for its own method, in that method's own terms."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from settings import BACKBONES, dense, images
from torch import nn

import vitrim
from vitrim import ATS, BAT, DynamicViT, EViT, EvoViT, IdleViT, ToFe, ToMe
from vitrim.runtime.profile import image_macs
from vitrim.training import get_recipe, losses, override
from vitrim.training.finetune import make_teacher, objective_of
from vitrim.training.shares import own_counts
from vitrim.training.student import make_student

ROWS = {row.name: row for row in BACKBONES}
N = 25  # patches of the row "deit", whose model has four blocks
FIXED = {"ratio": 2.0}  # no budget: stages are held to their shares


def recipe(name="distill", **changes):
    return override(get_recipe(name, small=True), **changes)


def one_step(methods, plan, row="deit", batch=6):
    """The student in train mode, parts of its loss on one batch, what it has left for them, what the teacher says."""
    model, x = dense(ROWS[row]), images(ROWS[row], batch=batch)
    torch.manual_seed(0)
    student, plan = make_student(model, methods, plan, None, {})
    taught = make_teacher(model, student, plan)(x) if plan.teaches else None
    logits, learned = student.train()(x, losses=True)
    parts = objective_of(plan, student, None).parts(logits, learned, torch.arange(batch) % 7, taught)
    return student, parts, learned, taught


def at(learned, block):
    (place_record,) = (w for w in learned.place_records if w.place.block == block)
    return place_record


def off(learned, wanted):
    """The ratio loss by hand. wanted: block -> (share, what it is a share of)"""
    by_hand = [
        (at(learned, block).selected.sum(dim=1) / whole - share).square().mean()
        for block, (share, whole) in wanted.items()
    ]
    return torch.stack(by_hand).mean().item()


# -- shares held by the ratio loss


@pytest.mark.parametrize(
    ("methods", "wanted"),
    [
        # listed out of order, and one inside the other
        ([DynamicViT((0.5,), at=3), DynamicViT((0.8, 0.7), at=(0, 2))], {3: (0.5, N), 0: (0.8, N), 2: (0.7, N)}),
        ([DynamicViT((0.9, 0.4), at=(0, 3)), DynamicViT((0.6,), at=2)], {0: (0.9, N), 3: (0.4, N), 2: (0.6, N)}),
        ([ToFe((0.5, 0.3), at=(2, 3)), ToFe((0.8,), at=1)], {2: (0.5, N), 3: (0.3, N), 1: (0.8, N)}),
        ([ToFe((0.8, 0.3), at=(1, 3), reuse=False)], {1: (0.8, N), 3: (0.3, N)}),
        # 5 tokens of 25 are gone for good: 0.6 of all, and no share above the 20 that are left
        ([ToMe(r=5, at=0), DynamicViT((0.9, 0.6), at=(1, 2))], {1: (20 / N, N), 2: (0.6, N)}),
        ([ToMe(r=5, at=0), ToFe((0.6, 0.3), at=(1, 2))], {1: (0.6, N), 2: (0.3, N)}),
        # a method that keeps what its rule says has nothing to be held to
        ([DynamicViT((0.5,), at=3), EViT(0.7, at=1)], {3: (0.5, N)}),
        ([BAT(0.6, at=0), DynamicViT((0.5, 0.2), at=(1, 2))], {1: (0.5, N), 2: (0.2, N)}),
        # IdleViT's are shares of the tokens there are
        ([ToMe(r=5, at=0), IdleViT((0.5, 0.3), blocks=(1, 3), score="predictor")], {1: (0.5, 20), 3: (0.3, 20)}),
        ([IdleViT((0.5,), blocks=3, score="predictor"), DynamicViT((0.7,), at=1)], {3: (0.5, None), 1: (0.7, N)}),
    ],
    ids=lambda given: "+".join(m.name for m in given) if isinstance(given, list) else "",
)
def test_every_place_is_held_to_its_own_share(methods, wanted):
    _, parts, learned, _ = one_step(methods, recipe(**FIXED))
    left = {b: at(learned, 1).selected.sum(dim=1).detach() if w is None else w for b, (_, w) in wanted.items()}
    by_hand = off(learned, {block: (share, left[block]) for block, (share, _) in wanted.items()})
    assert parts["ratio"].item() == pytest.approx(by_hand, rel=1e-5)
    assert by_hand > 1e-4


def test_a_budget_holds_tofe_and_the_ratio_the_others():
    stack = [DynamicViT((0.7,), at=1), ToFe((0.5, 0.3), at=(2, 3))]
    student, parts, learned, _ = one_step(stack, recipe())
    assert parts["ratio"].item() == pytest.approx(off(learned, {1: (0.7, N)}), rel=1e-5)
    counts, patches = own_counts(student.methods[1], learned)
    assert patches == [N, N]
    assert torch.equal(counts, torch.stack([at(learned, b).selected.sum(dim=1) for b in (2, 3)], dim=1))
    assert image_macs(student, counts.long()).shape == (6,)
    alone, fixed = recipe("tofe", ratio=100.0), one_step([ToFe((0.5, 0.3), at=(2, 3))], recipe("tofe", ratio=100.0))
    assert alone.weights.budget
    assert fixed[1]["ratio"].item() == pytest.approx(off(fixed[2], {2: (0.5, N), 3: (0.3, N)}), rel=1e-5)


def test_one_budget_holds_several_methods_that_learn_their_counts():
    plan = recipe()
    student, parts, learned, _ = one_step([ToFe((0.5, 0.3), at=(2, 3)), ToFe((0.8,), at=1)], plan)
    kept = torch.stack([at(learned, block).selected.sum(dim=1) for block in (2, 3, 1)], dim=1)
    macs = image_macs(student, kept)
    dense_cost, wanted = vitrim.profile(student).dense_macs, vitrim.profile(student).macs
    by_hand = losses.macs_budget(macs, wanted, dense_cost, plan.budget_of_mean)
    assert parts["budget"].item() == pytest.approx(by_hand.item(), rel=1e-5)
    gradient = torch.autograd.grad(macs.sum(), [at(learned, block).selected for block in (1, 2, 3)])
    assert all((each > 0).all() for each in gradient)


def test_the_ratio_follows_a_schedule_of_keep_rates():
    student, _, learned, taught = one_step([DynamicViT((0.5, 0.2), at=(1, 2))], recipe())
    student.methods[0].set_rates([1.0, 0.9])
    logits, learned = student(images(ROWS["deit"], batch=6), losses=True)
    parts = objective_of(recipe(**FIXED), student, None).parts(logits, learned, torch.arange(6), taught)
    assert parts["ratio"].item() == pytest.approx(off(learned, {1: (1.0, N), 2: (0.9, N)}), rel=1e-5)


def test_shares_of_other_wholes_by_hand():
    masks = [torch.tensor([[1.0, 1.0, 0.0, 0.0]]), torch.tensor([[1.0, 0.0, 0.0, 0.0]])]
    of = [8, torch.tensor([2.0])]
    assert losses.keep_ratio(masks, [0.5, 0.25], of).item() == pytest.approx((0.25**2 + 0.25**2) / 2)


# -- the other losses


def test_approximations_are_told_apart_from_idle_tokens_and_from_dropped_ones():
    stack = [IdleViT(0.6, blocks=0, stages=2), DynamicViT((0.6,), at=1), ToFe((0.5, 0.3), at=(2, 3))]
    plan = recipe()
    _, parts, learned, taught = one_step(stack, plan)
    assert set(taught.stages) == {2}
    alive = at(learned, 1).selected.detach() > 0.5
    frozen = (at(learned, 2).selected.detach() < 0.5) & alive
    by_hand = losses.approximation(at(learned, 2).restored[:, 1:], taught.stages[2][:, 1:], frozen)
    assert parts["approximation"].item() == pytest.approx(by_hand.item(), rel=1e-5)
    assert (~alive).any() and frozen.any()


@pytest.mark.parametrize("before", [ToMe(r=5, at=0), EViT(0.7, at=0), EViT(0.95, at=0), BAT(0.5, at=0)])
def test_approximations_learn_from_the_patches_whose_places_the_tokens_have_taken(before):
    _, parts, learned, taught = one_step([before, ToFe((0.5, 0.3), at=(1, 2))], recipe())
    place_record, teacher = at(learned, 1), taught.stages[1][:, 1:]
    origin = learned.tokens.origin()
    rows = torch.stack([image[index] for image, index in zip(teacher, origin, strict=True)])
    by_hand = losses.approximation(place_record.restored[:, 1:], rows, place_record.selected.detach() < 0.5)
    assert parts["approximation"].item() == pytest.approx(by_hand.item(), rel=1e-5)


@pytest.mark.parametrize(
    "stack",
    [
        [ToMe(r=5, at=0), DynamicViT((0.6, 0.3), at=(1, 2))],
        [EViT(0.95, at=0), DynamicViT((0.6,), at=1)],  # as many tokens as before, in another order
        [ToMe(r=5, at=0), EViT(0.6, at=2)],
        [IdleViT(0.6, blocks=0, stages=2), ToMe(r=5, at=2)],
    ],
)
def test_tokens_left_learn_from_their_own_patches(stack):
    _, parts, learned, taught = one_step(stack, recipe(token_mse=1.0))
    tokens = learned.tokens
    kept = torch.ones(6, tokens.n) if tokens.mask is None else tokens.mask.detach()
    each = [
        (x - said[1:][index]).square().mean(dim=1)
        for x, said, index in zip(tokens.patches, taught.tokens, tokens.origin(), strict=True)
    ]
    by_hand = (torch.stack(each) * kept).sum() / kept.sum()
    assert parts["token_mse"].item() == pytest.approx(by_hand.item(), rel=1e-5)


def test_tokens_of_a_ragged_batch_learn_from_their_own_patches():
    _, parts, learned, taught = one_step([ATS(0.7, at=(1, 2))], recipe(token_mse=1.0))
    tokens, total, count = learned.tokens, 0.0, 0
    own = tokens.layout.patches.pad(tokens.patches)
    for x, said, index in zip(own, taught.tokens, tokens.origin(), strict=True):
        there = index >= 0
        total += (x[there] - said[1:][index[there]]).square().mean(dim=1).sum().item()
        count += there.sum().item()
    assert count < 6 * N
    assert parts["token_mse"].item() == pytest.approx(total / count, rel=1e-5)


@pytest.mark.parametrize("cut_map", ["maps", "logits"])
def test_the_cut_loss_beside_merged_tokens_takes_the_blocks_that_idle(cut_map):
    plan = replace(recipe("idlevit"), cut_map=cut_map)
    _, parts, learned, _ = one_step([ToMe(r=9, at=0), IdleViT(0.6, blocks=(1, 2), stages=2)], plan)
    cuts = [losses.token_cut(at(learned, b).attention, at(learned, b).selected > 0.5) for b in (1, 2)]
    assert parts["cut"].item() == pytest.approx(torch.stack(cuts).mean().item(), rel=1e-5)
    assert at(learned, 0).attention is None


def test_a_block_that_does_not_idle_has_no_part_in_the_cut_loss():
    _, parts, learned, _ = one_step([IdleViT((1.0, 0.6), blocks=(1, 2))], recipe("idlevit"))
    alone = losses.token_cut(at(learned, 2).attention, at(learned, 2).selected > 0.5)
    assert parts["cut"].item() == pytest.approx(alone.item(), rel=1e-6)


# -- masked methods behind masked ones: mask = gather (law 2) for stacks

MASKED = {
    "dynamicvit twice": lambda: [DynamicViT((0.8,), at=1), DynamicViT((0.5, 0.3), at=(2, 3))],
    "dynamicvit behind one that leaves fewer": lambda: [DynamicViT((0.3,), at=1), DynamicViT((0.8, 0.5), at=(2, 3))],
    "tome, dynamicvit": lambda: [ToMe(r=9, at=0), DynamicViT((0.9, 0.6, 0.5), at=(1, 2, 3))],
    "dynamicvit, idlevit": lambda: [DynamicViT((0.6,), at=1), IdleViT((0.5, 0.7), blocks=(2, 3), score="predictor")],
    "idlevit, dynamicvit": lambda: [IdleViT((0.5,), blocks=1, score="predictor"), DynamicViT((0.6,), at=2)],
    "dynamicvit, tofe": lambda: [DynamicViT((0.6,), at=1), ToFe((0.4, 0.2), at=(2, 3))],
    "dynamicvit, tofe with blocks": lambda: [
        DynamicViT((0.6,), at=1),
        ToFe((0.4, 0.2), at=(2, 3), approximator="block", selector="dynamicvit"),
    ],
    "dynamicvit, tofe without reuse": lambda: [DynamicViT((0.6,), at=1), ToFe((0.5, 0.2), at=(2, 3), reuse=False)],
    "tofe, dynamicvit": lambda: [ToFe((0.6,), at=1), DynamicViT((0.9, 0.3), at=(2, 3))],
    "tofe, idlevit": lambda: [ToFe((0.6,), at=1), IdleViT((0.5, 0.7), blocks=(2, 3), score="predictor")],
    "decides nothing": lambda: [DynamicViT((0.9, 0.9, 0.5), at=(1, 2, 3))],
}


def put_on(methods, row="deit"):
    fast = vitrim.runtime.build.attach(dense(ROWS[row]), methods)
    torch.manual_seed(1)
    for parameter in fast.methods.parameters():
        nn.init.normal_(parameter, std=0.4)
    return fast.eval()


@torch.no_grad()
@pytest.mark.parametrize("name", MASKED)
def test_stacks_give_the_same_logits_masked_and_gathered(name):
    fast, x, logits = put_on(MASKED[name]()), images(ROWS["deit"], batch=3), []
    for masked in (True, False):
        for method in fast.methods:
            method.masked = masked if method.trains_masked else None
        logits.append(fast(x))
    torch.testing.assert_close(*logits, rtol=1e-5, atol=1e-5)
    assert (logits[0] - dense(ROWS["deit"])(x)).abs().max() > 1e-3


# -- what a stack cannot be trained with is refused before it starts


@pytest.mark.parametrize(
    ("stack", "changes", "said"),
    [
        (
            [ToFe(at=1), DynamicViT((0.5,), at=2)],
            {},
            "dynamicvit acts on what it leaves: put dynamicvit before block 1",
        ),
        ([ToFe(at=1), EViT(0.6, at=2)], {"ratio": 2.0}, "evit, which acts after it, would choose among masked tokens"),
        ([DynamicViT((0.5,), at=1), IdleViT(0.6, blocks=2, stages=2)], {}, "idlevit, which acts after it"),
        (
            [IdleViT((0.6,), blocks=1, score="predictor"), EvoViT(0.5, blocks=(2, 3))],
            {},
            "evovit, which acts after it, would choose among masked tokens",
        ),
        (
            [DynamicViT((0.5,), at=1), IdleViT((0.6,), blocks=2, score="predictor")],
            {"cut": 4.0},
            "idlevit, which acts after it, would choose among masked tokens",
        ),
        ([IdleViT(1.0)], {"cut": 4.0}, "no block idles, so there is no token cut loss"),
        ([ToMe(r=3)], {"keep_epochs": 2}, "a schedule of keep rates, and tome has none that it could turn"),
        ([ToFe(at=1)], {"keep_start": 1}, "a schedule of keep rates, and tofe has none that it could turn"),
    ],
    ids=lambda given: "+".join(m.name for m in given) if isinstance(given, list) else "",
)
def test_refusals(stack, changes, said):
    with pytest.raises(ValueError, match=said) as refused:
        make_student(dense(ROWS["deit"]), stack, recipe(**changes), None, {})
    assert len(str(refused.value)) < 300


def test_a_method_acts_where_another_has_put_its_masked_tokens_back():
    stack = [IdleViT((0.6,), blocks=1, score="predictor"), EViT(0.6, at=2)]
    _, parts, learned, _ = one_step(stack, recipe())
    assert parts["ratio"].item() == pytest.approx(off(learned, {1: (0.6, N)}), rel=1e-5)
    assert at(learned, 2).selected.sum(dim=1).tolist() == [16.0] * 6  # 15 and their fused one
