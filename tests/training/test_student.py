"""The student: what a recipe asks of it, what is refused; on a tiny model."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from train_once import small_model

import vitrim
from vitrim.runtime.plan_file import write_plans
from vitrim.training import get_recipe, override
from vitrim.training.finetune import make_teacher, objective_of
from vitrim.training.optim import make_optimizer, set_learning
from vitrim.training.student import make_student

IMAGES = torch.randn(4, 3, 32, 32, generator=torch.Generator().manual_seed(0))


def student_of(method, recipe, macs=None, **options):
    return make_student(small_model(), method, recipe, macs, options)


def parts_of(recipe, method="idlevit", **options):
    """The parts of the loss on four images."""
    student, recipe = student_of(method, recipe, **options)
    taught = make_teacher(small_model(), student, recipe)(IMAGES)
    torch.manual_seed(0)
    logits, learned = student.train()(IMAGES, losses=recipe.records)
    return objective_of(recipe, student, None).parts(logits, learned, torch.tensor([0, 1, 2, 0]), taught)


def test_a_student_is_made_of_a_plan_of_its_file_and_by_auto(tmp_path):
    plan = vitrim.Plan((("tome", {"r": [2, 3], "at": [0, 2]}),), 0.8, 0.8, "vit", 4, 16, prediction_only=True)
    file, recipe = write_plans(tmp_path / "plan.json", [plan], {}), get_recipe("distill")
    for given in (plan, file, str(file)):
        student, _ = student_of(given, recipe)
        assert (list(student.methods[0].r), student.prediction_only) == ([2, 3], True)
    student, _ = student_of("auto", recipe, macs=0.8)
    assert vitrim.profile(student).share <= 0.8
    _, learned = student.train()(IMAGES, losses=recipe.records)
    assert learned.tokens.x.shape[1] > 1  # all that are left, though the last block predicts alone


def test_the_map_is_formed_for_the_cut_loss_alone():
    for cut, formed in ((0.0, False), (20.0, True)):
        recipe = override(get_recipe("idlevit"), cut=cut)
        student, _ = student_of("idlevit", recipe, keep=0.6)
        _, learned = student.train()(IMAGES, losses=recipe.records)
        assert all((place_record.attention is not None) == formed for place_record in learned.place_records)


def test_the_cut_loss_takes_the_map_and_the_rows_that_the_recipe_names():
    plain = get_recipe("idlevit")
    others = [replace(plain, cut_map="logits"), replace(plain, cut_row_mean=True), replace(plain, cut_part="inter")]
    cuts = [parts_of(recipe, keep=0.6)["cut"].item() for recipe in (plain, *others)]
    assert len({round(cut, 7) for cut in cuts}) == 4
    assert cuts[2] < cuts[0] > cuts[3]


def test_the_budget_of_the_mean_is_no_larger_than_the_mean_of_budgets():
    each, mean = (
        parts_of(override(get_recipe("tofe"), budget_of_mean=of_mean), "tofe", keep=0.5)["budget"].item()
        for of_mean in (False, True)
    )
    assert 0 <= mean < each


def test_frozen_parameters_never_learn():
    recipe = replace(get_recipe("distill"), frozen=("pos_embed", "cls_token", "blocks.1."))
    student, _ = student_of("evit", recipe, keep=0.6)
    set_learning(student, recipe, 0)
    still = {name for name, p in student.backbone.named_parameters() if not p.requires_grad}
    wanted = {
        n for n, _ in student.backbone.named_parameters() if n.startswith(("pos_embed", "cls_token", "blocks.1."))
    }
    assert still == wanted
    assert len(wanted) > 3
    optimizer = make_optimizer(student, recipe)
    before = {name: p.detach().clone() for name, p in student.backbone.named_parameters()}
    student.train()(IMAGES).square().mean().backward()
    optimizer.step()
    same = {name for name, p in student.backbone.named_parameters() if torch.equal(before[name], p)}
    assert wanted <= same
    with pytest.raises(ValueError, match=r"frozen 'positions': no parameter of the model begins so; .* pos_embed"):
        student_of("evit", replace(recipe, frozen=("positions",)), keep=0.6)


def test_a_method_behind_a_masked_one_is_refused_and_before_it_is_not():
    recipe = get_recipe("distill")
    behind = [vitrim.ToFe(at=1), vitrim.EViT(keep=0.6, at=2)]
    with pytest.raises(ValueError, match="evit, which acts after it, would choose among masked tokens"):
        make_student(small_model(), behind, recipe, None, {})
    before = [vitrim.ToMe(r=2, at=0), vitrim.DynamicViT(keep=0.6, at=2)]
    student, made = make_student(small_model(), before, recipe, None, {})
    assert [m.name for m in student.methods] == ["tome", "dynamicvit"]
    assert made.weights.ratio == 2.0
