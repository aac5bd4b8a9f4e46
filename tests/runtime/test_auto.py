"""`auto`: for every kind of model a plan within the budget or a line that says why not; presets and their shapes."""

from __future__ import annotations

import math

import pytest
import timm
from settings import BACKBONES

import vitrim
import vitrim.timm
from vitrim.methods import METHODS
from vitrim.runtime.auto import PRESETS, RANKED, RANKED_BY_PATCHES, choose
from vitrim.runtime.cost import plan_macs, whole_macs
from vitrim.runtime.curve import Curve
from vitrim.runtime.model import unwrap
from vitrim.runtime.plan_file import read_plans

PLANS = read_plans(PRESETS)


@pytest.fixture(scope="module")
def searched():
    """The model that the presets were searched on."""
    return timm.create_model("deit_tiny_patch16_224")


def cost_of(reduced, methods):
    body = reduced.body
    for method in methods:
        method.bind(body)
    return plan_macs(body, methods, body.grid(), prediction_only=reduced.prediction_only)


def one_token_more(method):
    """The method with one token more left, at each of its places in turn."""
    for name in ("pruned", "merged", "r"):
        counts = method.options().get(name) or []
        for j, count in enumerate(counts):
            if count:
                options = {**method.options(), name: [*counts[:j], count - 1, *counts[j + 1 :]]}
                yield METHODS[method.name](**options)


@pytest.mark.parametrize("macs", [0.9, 0.62, 0.3])
@pytest.mark.parametrize("row", BACKBONES, ids=lambda row: row.name)
def test_every_kind_of_model_gets_the_dearest_plan_within_the_budget_or_one_line(row, macs, capsys):
    try:
        reduced = unwrap(vitrim.reduce(row.build(), "auto", macs=macs))
    except ValueError as error:
        assert "out of reach" in str(error) and "give a share from" in str(error)
        assert len(str(error)) <= 300 and "\n" not in str(error)
        return
    budget = macs * whole_macs(reduced.body, reduced.body.grid())
    (method,) = reduced.methods
    assert cost_of(reduced, [method]) <= budget
    assert all(cost_of(reduced, [more]) > budget for more in one_token_more(method))
    assert not method.learns
    said = capsys.readouterr().err
    assert said == f"vitrim: {reduced.chosen}\n" and len(said) <= 300
    assert reduced.chosen in repr(reduced) and said.startswith(f"vitrim: auto chose {method.name}")


def test_a_model_gets_the_plan_that_was_searched_on_it(searched):
    for plan in PLANS:
        best = next(other for other in PLANS if other.budget == plan.budget)
        fast = vitrim.reduce(searched, "auto", macs=plan.budget)
        assert [(method.name, method.options()) for method in fast.methods] == [
            (name, METHODS[name](**options).options()) for name, options in best.methods
        ]
        assert vitrim.profile(fast).share == pytest.approx(best.share)


@pytest.mark.parametrize("plan", PLANS, ids=lambda plan: f"{plan.names}-{plan.budget:g}")
def test_the_curve_of_a_plan_gives_the_plan_again(plan):
    ((_, options),) = plan.methods
    merged = options.get("merged", options.get("r"))
    pruned = options.get("pruned", [0] * len(merged))
    again = Curve.of(plan).counts(options["at"], plan.depth, plan.patches, halves="r" in options)
    assert again == list(zip(pruned, merged, strict=True))


def test_curves_between_two_are_between_them():
    low, high = (Curve.of(plan) for plan in PLANS[:2])
    for x in (0.0, 0.3, 0.55, 0.9, 1.0):
        ends = sorted((low.left(x), high.left(x)))
        assert [low.towards(high, t).left(x) for t in (0, 1)] == pytest.approx([low.left(x), high.left(x)])
        assert ends[0] - 1e-9 <= low.towards(high, 0.4).left(x) <= ends[1] + 1e-9


def test_more_leaves_for_smaller_budgets_and_the_same_for_the_same(searched):
    body = vitrim.reduce(searched, "tome").body
    budgets = [0.95, 0.85, 0.75, 0.65, 0.55, 0.45, 0.3]
    choices = [choose(body, macs) for macs in budgets]
    left = [sum(vitrim.profile(vitrim.ReducedViT(searched, c.methods, True)).tokens) for c in choices]
    assert left == sorted(left, reverse=True) and len(set(left)) == len(left)
    assert [repr(c.methods) for c in choices] == [repr(choose(body, macs).methods) for macs in budgets]


def test_every_untrained_method_of_fixed_counts_is_ranked():
    assert set(RANKED) == set(RANKED_BY_PATCHES) == set(METHODS) - {"tofe", "dynamicvit", "ats", "random", "grid"}


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({}, "auto picks the plan for a budget: give macs, a share of the dense cost"),
        ({"macs": 0}, "macs=0 is no share of the dense cost"),
        ({"macs": math.nan}, "macs=nan is no share"),
        ({"macs": "half"}, 'macs="half" is no share'),
        ({"macs": 0.02}, r"cannot meet macs=0.02: out of reach, its plans cost 0.\d+ to 1 of the dense model"),
        ({"macs": 0.5, "keep": 0.7}, "auto chooses the method with its options: leave out keep"),
        ({"macs": 0.5, "dial": "evit"}, "leave out dial"),
    ],
)
def test_what_auto_cannot_do_is_one_line(searched, options, said):
    with pytest.raises(ValueError, match=said) as error:
        vitrim.reduce(searched, "auto", **options)
    assert len(str(error.value)) <= 300


def test_the_word_is_nobody_elses_name_and_timms_names_take_it():
    with pytest.raises(ValueError, match="the name 'auto' of Mine stands for any method"):
        vitrim.register_method(type("Mine", (vitrim.ToMe,), {"name": "auto"}))
    fast = timm.create_model("vitrim_deit_tiny_patch16_224", method="auto", macs=0.5)
    assert fast.methods[0].name == "prunemerge" and vitrim.profile(fast).share <= 0.5
