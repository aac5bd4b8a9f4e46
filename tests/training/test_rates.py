"""Keep rates in training: places that decide nothing, schedules, counts that are learned; two steps each."""

from __future__ import annotations

import copy
import math
from pathlib import Path

import pytest
import torch
from settings import BACKBONES, dense, images

from vitrim import ATS, BAT, DPCKNN, DynamicViT, EViT, EvoViT, IdleViT, ToFe, ToMe
from vitrim.runtime.build import attach
from vitrim.training import Settings, get_recipe, override
from vitrim.training.calibration import calibrate
from vitrim.training.finetune import make_teacher, objective_of
from vitrim.training.finish import as_saved
from vitrim.training.loop import make_accelerator
from vitrim.training.shares import kept_shares
from vitrim.training.steps import Stepper
from vitrim.training.student import make_student

ROWS = {row.name: row for row in BACKBONES}


def stepper_of(methods, plan, row="deit", each=2):
    """A `Stepper` for a copy of the row's model, at the start of its first epoch."""
    model, settings = dense(ROWS[row]), Settings(Path("unused"), cpu=True)
    torch.manual_seed(0)
    student, plan = make_student(model, methods, plan, None, {})
    teacher = make_teacher(model, student, plan) if plan.teaches else None
    accelerator = make_accelerator(settings, any(m.learns for m in student.methods))
    stepper = Stepper(accelerator, student, teacher, objective_of(plan, student, None), settings, each)
    stepper.begin_epoch(0)
    return stepper


def take(stepper, steps, row="deit"):
    x = images(ROWS[row], batch=4)
    return [stepper.take(step, x, torch.arange(4)) for step in range(steps)]


def recipe(name="distill", **changes):
    return override(get_recipe(name, small=True), batch_size=4, **changes)


NOTHING_HERE = {
    "dynamicvit, as many as before": lambda: [DynamicViT((0.9, 0.9, 0.5))],
    "dynamicvit, all at first": lambda: [DynamicViT((1.0, 0.7, 0.5))],
    "dynamicvit, all": lambda: [DynamicViT(1.0)],
    "idlevit by a predictor, all at first": lambda: [IdleViT((1.0, 0.7, 1.0), score="predictor")],
    "idlevit by a predictor, all": lambda: [IdleViT(1.0, score="predictor")],
    "idlevit": lambda: [IdleViT((1.0, 0.7, 1.0))],
    "tofe": lambda: [ToFe((1.0, 0.5, 1.0))],
    "tofe, all": lambda: [ToFe(1.0)],
    "tofe without reuse": lambda: [ToFe((0.5, 0.5, 0.2), reuse=False)],
    "tofe, each image its own": lambda: [ToFe((1.0, 0.5, 1.0), adaptive="instance")],
    "evit": lambda: [EViT((1.0, 0.7, 1.0))],
    "evit, all": lambda: [EViT(1.0)],
    "bat": lambda: [BAT((1.0, 0.7, 1.0))],
    "tome": lambda: [ToMe((0, 3, 0, 3))],
    "dpcknn": lambda: [DPCKNN((1.0, 0.7, 1.0))],
    "evovit": lambda: [EvoViT((1.0, 0.7, 1.0))],
    "ats": lambda: [ATS(1.0)],
    "dynamicvit behind tome": lambda: [ToMe(9, at=0), DynamicViT((0.9, 0.8, 0.5), at=(1, 2, 3))],
}


@pytest.mark.parametrize("name", NOTHING_HERE)
def test_two_steps_where_some_places_decide_nothing(name):
    stepper = stepper_of(NOTHING_HERE[name](), recipe())
    before = copy.deepcopy(stepper.student.methods.state_dict())
    figures = take(stepper, 2)
    assert all(math.isfinite(value) for row in figures for value in row.values())
    after = stepper.student.methods.state_dict()
    still = [key for key, value in after.items() if torch.equal(value, before[key]) and "predictors" in key]
    assert not [key for key in still if key.endswith("weight")]  # every predictor learns, wherever it stands
    student = stepper.result()
    calibrate(student, [images(ROWS["deit"])])
    with torch.no_grad():
        assert student(images(ROWS["deit"])).isfinite().all()


@pytest.mark.parametrize("row", ["gap_no_cls", "max", "avgmax", "siglip"])
def test_an_image_that_would_lose_all_its_tokens_keeps_one(row):
    stepper = stepper_of([DynamicViT((0.1, 0.05, 0.04))], recipe(), row)
    for predictor in stepper.student.methods[0].predictors:
        predictor.decide[-1].bias.data.copy_(torch.tensor([-30.0, 30.0]))
    (figures,) = take(stepper, 1, row)
    assert all(math.isfinite(value) for value in figures.values())
    assert figures["kept 1"] == pytest.approx(1 / 25)


def test_swin_counts_each_stage_by_its_own_patches():
    stepper = stepper_of([ToFe((0.5, 0.3), at=(1, 3))], recipe("tofe"), "swin")
    method = stepper.student.methods[0]
    assert [place.patches for place in method.places] == [144, 36]
    by_hand = method.kept_shares.clone()
    for step in range(2):
        figures = stepper.take(step, images(ROWS["swin"], batch=4), torch.arange(4))
        shares = torch.tensor([figures["kept 1"], figures["kept 3"]])
        by_hand = by_hand + 0.02 * (shares - by_hand)
        torch.testing.assert_close(method.kept_shares, by_hand, rtol=1e-4, atol=1e-5)


def test_tofe_behind_merged_tokens_counts_shares_of_all():
    stepper = stepper_of([ToMe(9, at=0), ToFe((0.5, 0.3), at=(1, 2))], recipe("tofe"))
    method = stepper.student.methods[1]
    by_hand = method.kept_shares.clone()
    (figures,) = take(stepper, 1)
    kept = torch.tensor([figures["kept 1"], figures["kept 2"]]) * 16 / 25
    torch.testing.assert_close(method.kept_shares, by_hand + 0.02 * (kept - by_hand), rtol=1e-4, atol=1e-5)


@torch.no_grad()
@pytest.mark.parametrize("first", [ToMe(9, at=0), EViT(0.6, at=0)])
def test_settled_behind_fewer_tokens_the_masks_keep_shares_of_all(first):
    fast = attach(dense(ROWS["deit"]), [first, ToFe((0.4, 0.2), at=(1, 2))]).eval()
    x = images(ROWS["deit"], batch=24)
    for place in fast.methods[1].places:
        fast.methods[1].shift(place, -3.0)
    calibrate(fast, x.split(10))
    method = fast.methods[1]
    with method.own_decisions():
        _, learned = fast(x, losses=True)
    shares = [w.selected.sum(dim=1).mean().item() / 25 for w in learned.place_records if w.index == 1]
    assert shares == pytest.approx([0.4, 0.2], abs=0.5 / 25)


# -- schedules


@pytest.mark.parametrize("steps", [1, 2, 3])
def test_a_run_of_one_step_is_at_its_peak_and_timm_has_nothing_to_remark(steps, caplog):
    plan = recipe()
    rows = take(stepper_of([EViT(0.6)], plan, each=steps), steps)
    assert rows[0]["lr"] == pytest.approx(plan.lr * plan.backbone_scale)
    assert [row["lr"] for row in rows] == sorted({row["lr"] for row in rows}, reverse=True)
    assert not [record for record in caplog.records if record.name.startswith("timm")]


@pytest.mark.parametrize(
    "methods",
    [
        lambda: [EViT((0.9, 0.5), at=(1, 3)), ToMe(2, at=0)],
        lambda: [BAT((0.6, 0.0), at=(1, 3))],
        lambda: [IdleViT((0.8, 0.5), blocks=(1, 3)), EViT(0.7, at=2)],
        lambda: [DynamicViT((0.9, 0.5), at=(1, 3))],
        lambda: [EViT(0.6, at=0), ToFe((0.5, 0.3), at=(2, 3))],
        lambda: [EvoViT((0.8, 0.5), blocks=(1, 3))],
    ],
)
def test_a_schedule_turns_every_rate_from_1_to_its_own(methods):
    stepper = stepper_of(methods(), recipe(keep_start=1, keep_epochs=2))
    figures, own = take(stepper, 7), methods()
    rates = {
        f"keep {block}": one.keep if isinstance(one.keep, float) else one.keep[j]
        for one in own
        if one.name not in ("tome", "tofe")
        for j, block in enumerate(one.at if one.at is not None else one.blocks)
    }
    for name, rate in rates.items():
        turned = [row[name] for row in figures]
        assert turned[:2] == [1.0, 1.0]
        assert turned == sorted(turned, reverse=True)
        assert turned[-1] == pytest.approx(rate)
    places = [f"kept {p.block}" for m in stepper.student.methods for p in m.places]
    assert all(set(places) <= row.keys() for row in figures)  # from the first row on: it settles the columns


def test_a_schedule_of_others_leaves_learned_counts_alone():
    stepper = stepper_of([EViT(0.6, at=0), ToFe((0.5, 0.3), at=(2, 3))], recipe(keep_start=1, keep_epochs=2))
    take(stepper, 3)
    judged = stepper.result()
    places, stored = judged.methods[1].places, judged.methods[1].kept_shares
    assert [place.keep for place in places] == pytest.approx(stored.tolist(), abs=1e-6)
    assert [place.keep for place in places] != pytest.approx([0.5, 0.3], abs=1e-4)
    assert [place.keep for place in judged.methods[0].places] == [0.6]


def test_two_methods_in_one_block_have_columns_of_their_own():
    student, _ = make_student(dense(ROWS["deit"]), [IdleViT((0.6,), blocks=1), EViT(0.5, at=2)], recipe(), None, {})
    _, learned = student.train()(images(ROWS["deit"]), losses=True)
    assert set(kept_shares(student, learned)) == {"1", "2"}
    both, _ = make_student(dense(ROWS["deit"]), [DPCKNN(0.6, at=1), EViT(0.5, at=1)], recipe(), None, {})
    _, learned = both.train()(images(ROWS["deit"]), losses=True)
    shares = kept_shares(both, learned)
    assert set(shares) == {"1 dpcknn", "1 evit"}
    assert shares["1 dpcknn"].item() == pytest.approx(15 / 25)
    assert shares["1 evit"].item() == pytest.approx(9 / 15)  # 8 and their fused one


# -- what is judged in the middle of a run


def test_what_is_judged_is_settled_and_what_trains_is_not():
    stepper = stepper_of([ToFe((0.5, 0.3, 0.2), adaptive="instance")], recipe())
    take(stepper, 1)
    student, x = stepper.result(), images(ROWS["deit"], batch=12)
    biases = [selector.decide.bias.clone() for selector in student.methods[0].selectors]
    judged = as_saved(student, lambda: [x])
    assert judged is not student
    assert all(torch.equal(s.decide.bias, b) for s, b in zip(student.methods[0].selectors, biases, strict=True))
    calibrate(student, [x])
    with torch.no_grad():
        assert torch.equal(judged(x), student(x))
    plain = stepper_of([ToFe((0.5, 0.3, 0.2))], recipe()).result()
    assert as_saved(plain, lambda: [x]) is plain  # batch-adaptive inference does not change by settling
