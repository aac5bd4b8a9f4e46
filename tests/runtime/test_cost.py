"""Profiles and budgets: what they say, and that a budget gives the largest plan not above it."""

from __future__ import annotations

import pytest
import timm
import torch
from settings import backbones, dense

import vitrim
from vitrim.common.errors import UnfitModel
from vitrim.common.on_meta import on_meta
from vitrim.runtime.budget import solve_dial

FIRST = next(b.values[0] for b in backbones(lambda b: b.cls))


def meta(name: str = "deit_small_patch16_224", **options) -> torch.nn.Module:
    with on_meta():
        return timm.create_model(name, **options)


def test_dense_figures_of_deit():
    """4.6 and 1.3 GMACs, 22 and 5.7 million parameters (DeiT's paper)."""
    small, tiny = vitrim.profile(meta()), vitrim.profile(meta("deit_tiny_patch16_224"))
    assert (round(small.gmacs, 1), round(tiny.gmacs, 1)) == (4.6, 1.3)
    assert (small.params, tiny.params) == (22_050_664, 5_717_416)
    assert small.share == 1.0 and small.tokens == [196] * 12 and small.patches == 196


def test_by_hand():
    """DeiT-S, keep 0.7 at 3, 6, 9: every term written out."""
    c, h, total = 384, 1536, 0
    n = 196
    total += 196 * 16 * 16 * 3 * c + c * 1000
    for block in range(12):
        total += (n + 1) * 4 * c * c + 2 * (n + 1) ** 2 * c
        if block in (3, 6, 9):
            total += (n + 1) * c + n * c  # the [CLS] row, the fused token
            n = {196: 139, 139: 99, 99: 71}[n]
        total += (n + 1) * 2 * c * h
    profile = vitrim.profile(vitrim.reduce(meta(), "evit", keep=0.7))
    assert profile.macs == total
    assert profile.dense_macs == vitrim.profile(meta()).macs
    assert profile.share == total / profile.dense_macs
    assert profile.gmacs == total / 1e9
    assert [block.block for block in profile.blocks] == list(range(12))
    assert [b.attention_tokens for b in profile.blocks] == [196] * 4 + [139] * 3 + [99] * 3 + [71] * 2
    assert [b.block for b in profile.blocks if b.method_macs] == [3, 6, 9]


def test_a_dense_model_and_one_that_keeps_all_cost_the_same():
    model = dense(FIRST)
    assert vitrim.profile(vitrim.reduce(model, "evit", keep=1.0)) == vitrim.profile(model)


def test_image_size_may_be_a_number_or_a_pair():
    model = meta(dynamic_img_size=True)
    assert vitrim.profile(model, 384) == vitrim.profile(model, (384, 384))
    assert vitrim.profile(model, (224, 384)).patches == 14 * 24
    assert vitrim.profile(model, 384).gmacs == pytest.approx(15.5, abs=0.05)


def test_profiling_runs_nothing(monkeypatch):
    model = vitrim.reduce(dense(FIRST), "evit")
    monkeypatch.setattr(torch.nn.Linear, "forward", lambda *_: pytest.fail("a layer ran"))
    assert vitrim.profile(model).macs > 0


# -- budgets


# Where the budget is makes the difference; TopK, Random and Grid cost the same at the same rate.
@pytest.mark.parametrize(
    ("method", "share"), [*(("evit", share) for share in (0.95, 0.7, 0.6, 0.5, 0.35)), ("topk", 0.6), ("grid", 0.35)]
)
def test_a_budget_gives_the_largest_plan_not_above_it(method, share):
    model = meta()
    fast = vitrim.reduce(model, method, macs=share)
    dense_macs, rate = vitrim.profile(model).macs, fast.methods[0].keep
    assert vitrim.profile(fast).macs <= share * dense_macs
    candidates = [(j + 1) / 2000 for j in range(2000)]
    costs = {k: vitrim.profile(vitrim.reduce(model, method, keep=k)).macs for k in candidates if abs(k - rate) < 0.02}
    assert max(macs for macs in costs.values() if macs <= share * dense_macs) <= vitrim.profile(fast).macs


def test_the_rate_is_the_shortest_with_that_plan():
    fast = vitrim.reduce(meta(), "evit", macs=0.66)
    assert len(str(fast.methods[0].keep)) <= 5
    assert vitrim.reduce(meta(), "evit", macs=1.0).methods[0].keep == 1.0


def test_a_budget_of_a_method_with_whole_numbers():
    fast = vitrim.reduce(meta(), "tome", macs=0.6)
    r = fast.methods[0].r
    assert isinstance(r, int)
    dense_macs = vitrim.profile(meta()).macs
    assert vitrim.profile(fast).macs <= 0.6 * dense_macs
    assert vitrim.profile(vitrim.reduce(meta(), "tome", r=r - 1)).macs > 0.6 * dense_macs


def test_a_budget_keeps_the_other_options():
    fast = vitrim.reduce(meta(), vitrim.EViT(at=(2, 5), fuse=False, score="tokens"), macs=0.6)
    (method,) = fast.methods
    assert (method.at, method.fuse, method.score) == ((2, 5), False, "tokens")
    assert vitrim.profile(fast).share <= 0.6


def test_a_model_that_the_method_does_not_fit_is_no_question_of_budget():
    with pytest.raises(UnfitModel, match=r'^evit with score="cls" needs a \[CLS\] token') as refused:
        vitrim.reduce(meta("vit_base_patch16_siglip_224"), "evit", macs=0.6)
    assert refused.value.needs == {"score": "tokens"}


def test_out_of_reach_names_what_can_be_had():
    said = r"grid cannot meet macs=0.1: out of reach, its plans cost 0\.\d+ to 1 of the dense model"
    with pytest.raises(ValueError, match=said):
        vitrim.reduce(meta(), "grid", macs=0.1)


@pytest.mark.parametrize("budget", [1, 7, 8, 99, 100, 101])
def test_solve_dial_over_listed_values(budget):
    values = (3, 7, 50, 100)
    if budget < 3:
        with pytest.raises(ValueError, match="out of reach"):
            solve_dial(lambda value: value, budget, values)
        return
    assert solve_dial(lambda value: value, budget, values) == max(v for v in values if v <= budget)
