"""The search for a plan: its plans keep the budget, its judge tells the truth, a kill loses nothing."""

from __future__ import annotations

import json

import pytest
import timm
import torch

import vitrim
from vitrim.runtime.plan_file import Plan, pick, read_plans, write_plans
from vitrim.tune import tune
from vitrim.tune.exchange import Cost, Exchange
from vitrim.tune.judge import Judge
from vitrim.tune.space import Shape, Space
from vitrim.tune.trials import Trials

SEARCHED = (
    "prunemerge",
    "diffrate",
    "tome",
    "pitome",
    "dpcknn",
    "evit",
    "bat",
    "idlevit",
    "evovit",
    "topk",
    "tome+evit",
)


@pytest.fixture(scope="module")
def model(small_vit) -> torch.nn.Module:
    return small_vit(56)


@pytest.fixture(scope="module")
def images() -> torch.Tensor:
    return torch.rand(40, 3, 56, 56, generator=torch.Generator().manual_seed(0))


@pytest.mark.parametrize("name", SEARCHED)
def test_what_is_found_keeps_the_budget_and_is_what_runs(name, model, images):
    rows = tune(model, images, [name], [0.5, 0.7], held_out=images[:8], trials=6)
    assert [row.plan.budget for row in rows] == [0.7, 0.5]
    for row in rows:
        fast = vitrim.reduce(model, row.plan).eval()
        cost = vitrim.profile(fast)
        assert cost.share == pytest.approx(row.plan.share) and row.plan.share <= row.plan.budget
        with torch.inference_mode():
            dense, output = model(images).log_softmax(1), fast(images).log_softmax(1)
        apart = (dense.exp() * (dense - output)).sum(dim=1).mean().item()
        assert row.distance == pytest.approx(apart, rel=1e-3, abs=1e-6)
        if row.flat is not None:
            own = vitrim.reduce(model, name, macs=row.plan.budget, prediction_only=True).eval()
            with torch.inference_mode():
                assert torch.cat([own(images)]).shape == dense.shape


def test_a_search_is_better_than_where_it_began(model, images):
    short, long = (tune(model, images, ["tome"], [0.6], trials=trials)[0] for trials in (1, 60))
    assert long.distance < short.distance
    assert long.flat is not None and long.distance < long.flat["distance"]


def test_the_same_seed_finds_the_same_plans(model, images):
    one, two = (tune(model, images, ["prunemerge"], [0.6], trials=10, seed=3)[0].plan for _ in range(2))
    other = tune(model, images, ["prunemerge"], [0.6], trials=10, seed=4)[0].plan
    assert one == two and one.methods != other.methods


@pytest.mark.parametrize("name", ["prunemerge", "idlevit"])
def test_reused_work_changes_nothing(name, model, images):
    """Plans that differ from the best one late run from tokens that are kept; so do those that differ early."""
    space = Space(model, [name], prediction_only=True)
    start = Shape((6,) * space.places, (0.5,) * space.places)
    reusing = Judge(space, images)
    reusing.settle(start)
    for place in range(space.places):
        other = start.moved(place, 4)
        fresh = Judge(space, images).judge(other, stop=False)
        torch.testing.assert_close(reusing.judge(other, stop=False).distances, fresh.distances, rtol=1e-4, atol=1e-5)


def test_a_bad_plan_is_stopped_early_and_a_good_one_is_not(model, images):
    space = Space(model, ["tome"], prediction_only=True)
    judge = Judge(space, images.repeat(2, 1, 1, 1))
    nothing = Shape((0,) * space.places, (0.0,) * space.places)
    judge.settle(nothing)
    verdict = judge.judge(Shape((20, 12, 6, 3), (0.0,) * 4))
    assert not verdict.whole and len(verdict.distances) < 80
    assert judge.judge(nothing).whole


def test_moves_stay_within_the_budget(model):
    space = Space(model, ["prunemerge"], prediction_only=True)
    exchange = Exchange(space, Cost(space.share), 0.6, seed=0)
    shape = exchange.scaled(Shape((8,) * space.places, (0.5,) * space.places))
    assert shape is not None
    for _ in range(40):
        shape = exchange.propose(shape)
        assert shape is not None and space.share(shape) <= 0.6 and min(shape.removed) >= 0
        assert all(0 <= share <= 1 for share in shape.dropped)


class Killed(Exception):
    """Stands for SIGKILL between two trials."""


@pytest.mark.parametrize("after", [0, 1, 4, 9])
def test_a_search_that_was_killed_goes_on_as_if_it_never_was(after, model, images, tmp_path, monkeypatch):
    whole = tune(model, images, ["tome"], [0.7, 0.5], trials=6)
    path, added = tmp_path / "trials.jsonl", Trials.add

    def dying(self, *line):
        if len(self._known) > after:
            raise Killed
        added(self, *line)

    monkeypatch.setattr(Trials, "add", dying)
    with pytest.raises(Killed):
        tune(model, images, ["tome"], [0.7, 0.5], trials=6, journal=path)
    monkeypatch.setattr(Trials, "add", added)
    path.write_bytes(path.read_bytes() + b'{"torn')
    kept = len(path.read_bytes().splitlines()) - 2
    again = tune(model, images, ["tome"], [0.7, 0.5], trials=6, journal=path)
    assert kept == after + 1 and [row.plan for row in again] == [row.plan for row in whole] and not path.exists()


def test_another_search_is_not_gone_on_with(model, images, tmp_path):
    path = tmp_path / "trials.jsonl"
    Trials(path, {"seed": 0}).add("tome 0.5", Shape((1,), (0.0,)), False, 0.5)
    with pytest.raises(ValueError, match="asked something else"):
        tune(model, images, ["tome"], [0.5], trials=2, journal=path)
    assert tune(model, images, ["tome"], [0.5], trials=2, journal=path, restart=True)


@pytest.mark.parametrize(
    ("methods", "budgets", "some", "said"),
    [
        (["tofe"], [0.5], 40, "learned parts"),
        (["ats"], [0.5], 40, "number of tokens of its own"),
        (["no"], [0.5], 40, "not known"),
        (["tome"], [0.01], 40, "cannot cost 0.01 of the dense model"),
        (["tome"], [1.5], 40, "no share"),
        (["tome"], [], 40, "no budget"),
        (["tome"], [0.5], 3, "3 photographs: give 16"),
    ],
)
def test_refusals(methods, budgets, some, said, model, images):
    with pytest.raises(ValueError, match=said):
        tune(model, images[:some], methods, budgets, trials=2)


PLAN = Plan((("tome", {"r": [8] * 5}),), 0.7, 0.69, "vit_tiny", depth=5, patches=49)


def test_a_plan_comes_back_from_its_file(model, tmp_path):
    other = Plan((("tome", {"r": [4] * 5}),), 0.8, 0.79, "vit_tiny", depth=5, patches=49)
    path = write_plans(tmp_path / "plan.json", [other, PLAN], {"search": {"seed": 0}})
    assert read_plans(path) == (other, PLAN) and pick(read_plans(path), 0.7) == PLAN
    fast = vitrim.reduce(model, path, macs=0.7)
    assert vitrim.profile(fast).tokens == vitrim.profile(vitrim.reduce(model, str(path), macs=0.7)).tokens
    with pytest.raises(ValueError, match=r"front of budgets, 0.8, 0.7"):
        vitrim.reduce(model, path)
    with pytest.raises(ValueError, match=r"none for macs=0.5: it was searched for 0.8, 0.7"):
        vitrim.reduce(model, path, macs=0.5)


def test_a_plan_of_another_model_is_refused():
    other = timm.create_model("vit_tiny_patch16_224", img_size=56, patch_size=8, embed_dim=24, depth=4, num_heads=3)
    with pytest.raises(ValueError, match="5 blocks and 49 patches, and vit_tiny_patch16_224 has 4 and 49"):
        vitrim.reduce(other, PLAN)


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda text: text.replace('"r"', '"s"'), "damaged or edited"),
        (lambda text: text.replace("0.69", "0.1"), "damaged or edited"),
        (lambda text: text[:-30], "no JSON"),
        (lambda text: "[]", "no plan"),
        (lambda text: json.dumps({"vitrim_plan": 99}), "no plan of this version"),
    ],
)
def test_a_file_that_is_no_plan_any_more_is_refused(change, said, model, tmp_path):
    path = write_plans(tmp_path / "plan.json", [PLAN], {})
    path.write_text(change(path.read_text()))
    with pytest.raises(ValueError, match=said):
        vitrim.reduce(model, path)


def test_a_file_that_is_not_there(model):
    with pytest.raises(ValueError, match=r"there is no plan nowhere\.json"):
        vitrim.reduce(model, "nowhere.json")
