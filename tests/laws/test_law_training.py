"""Every method learns on every backbone: steps of its recipes are finite, move the weights, and leave what runs."""

from __future__ import annotations

import math
from pathlib import Path

import pytest
import torch
from settings import CLASSES, dense, images, methods, pairs

from vitrim.runtime.model import unwrap
from vitrim.training import RECIPES, Settings, get_recipe, override
from vitrim.training.calibration import calibrate
from vitrim.training.finetune import make_teacher, objective_of
from vitrim.training.loop import make_accelerator
from vitrim.training.steps import Stepper
from vitrim.training.student import make_student

FIRST = next(iter(pairs("star"))).values[0]
OWN = [
    pytest.param(method.values[0], name, id=f"{name}-{method.values[0].id}")
    for name, make in RECIPES.items()
    for method in methods()
    if method.values[0].name == make().method and not method.values[0].more
]


def two_steps(backbone, method, name):
    """The student after two steps of the recipe on two images, and the figures of both."""
    described, settings = dense(backbone), Settings(Path("unused"), cpu=True)
    model, heads = unwrap(described), {} if described.num_classes else {"logit_kl": 0.0}
    predicts = "predictor" in method.id and name == "idlevit"  # Swin's form: no map, its keep rates held
    changes = {"batch_size": 2, **heads, **({"cut": 0.0, "ratio": 2.0} if predicts else {})}
    recipe = override(get_recipe(name, small=True), **changes)
    student, recipe = make_student(model, method.make(), recipe, None, {})
    teacher = make_teacher(model, student, recipe) if recipe.teaches else None
    accelerator = make_accelerator(settings, any(m.learns for m in student.methods))
    stepper = Stepper(accelerator, student, teacher, objective_of(recipe, student, None), settings, 2)
    stepper.begin_epoch(0)
    labels = torch.arange(2) % CLASSES
    return stepper.result, [stepper.take(step, images(backbone), labels) for step in range(2)]


def check(backbone, method, name):
    result, figures = two_steps(backbone, method, name)
    assert all(math.isfinite(value) for row in figures for value in row.values())
    assert figures[0]["loss"] > 0
    student, before = result(), unwrap(dense(backbone)).state_dict()
    moved = [key for key, value in student.backbone.state_dict().items() if not torch.equal(value, before[key])]
    assert len(moved) > len(before) / 2
    calibrate(student, [images(backbone)])
    with torch.no_grad():
        assert student(images(backbone)).isfinite().all()


@pytest.mark.parametrize(
    ("backbone", "method"), pairs("star", where=lambda b, m: not m.says("guide") and m.names.count("tofe") < 2)
)
def test_distill(backbone, method):
    check(backbone, method, "distill")


@pytest.mark.parametrize(("method", "recipe"), OWN)
def test_the_methods_own_recipes(method, recipe):
    check(FIRST, method, recipe)
