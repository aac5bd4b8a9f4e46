"""Any batch, any image size that the model takes, any keep rate, any places: shapes, counts and finite logits."""

from __future__ import annotations

import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from settings import CLASSES, MethodRow, backbones, dense, reduced

import vitrim

ROW = next(b.values[0] for b in backbones(lambda b: b.name == "dynamic"))
DEPTH = 4
KEEP = st.floats(min_value=0.0, max_value=1.0, exclude_min=True)
PLACES = st.sets(st.integers(0, DEPTH - 1), min_size=1).map(sorted)
SIDE = st.integers(1, 9).map(lambda patches: 8 * patches)
BOUNDED = settings(max_examples=25, deadline=None)
METHODS = st.sampled_from(["evit", "topk", "random", "grid"])


@st.composite
def plans(draw):
    """(method, options): any places, one rate or one for each."""
    at = draw(PLACES)
    keep = draw(st.one_of(KEEP, st.lists(KEEP, min_size=len(at), max_size=len(at))))
    name, options = draw(METHODS), {"keep": keep, "at": at}
    if name == "evit":
        options["fuse"] = draw(st.booleans())
    if name in ("evit", "topk"):
        options["score"] = draw(st.sampled_from(["cls", "tokens", "random", "-cls"]))
    return MethodRow(name, name, options)


@torch.no_grad()
@BOUNDED
@given(plans(), st.integers(1, 3), SIDE, SIDE, st.integers(0, 1000))
def test_any_plan_on_any_image(plan, batch, height, width, seed):
    model = reduced(ROW, plan)
    x = torch.randn(batch, 3, height, width, generator=torch.Generator().manual_seed(seed))
    logits, trace = model(x, trace=True)
    profile = vitrim.profile(model, (height, width))
    assert logits.shape == (batch, CLASSES) and logits.isfinite().all()
    assert [record.kept.shape for record in trace] == [(batch, n) for n in profile.tokens]
    assert all(n >= 1 for n in profile.tokens)
    assert profile.patches == height * width // 64
    # Keeping 24 of 25 and fusing one costs its scores and saves nothing; no plan costs more than that.
    assert profile.macs <= profile.dense_macs + sum(block.method_macs for block in profile.blocks)
    whole = model.forward_features(x, restore=True)
    assert whole.shape == (batch, 1 + profile.patches, 48) and whole.isfinite().all()


LISTED = [name for name, method in vitrim.METHODS.items() if "keep" in method.option_names() and name != "ats"]


@torch.no_grad()
@BOUNDED
@given(st.sampled_from(LISTED), KEEP, st.integers(1, 2), SIDE, SIDE)
def test_any_keep_rate_for_every_method(name, keep, batch, height, width):
    model = reduced(ROW, MethodRow(name, name, {"keep": keep}))
    logits, trace = model(torch.randn(batch, 3, height, width), trace=True)
    assert logits.shape == (batch, CLASSES) and logits.isfinite().all()
    assert [record.kept.shape[1] for record in trace] == vitrim.profile(model, (height, width)).tokens


@torch.no_grad()
@BOUNDED
@given(METHODS, PLACES, st.integers(1, 3), SIDE, SIDE)
def test_keep_rate_one_is_the_dense_model_bitwise(name, at, batch, height, width):
    x = torch.randn(batch, 3, height, width)
    model = reduced(ROW, MethodRow(name, name, {"keep": 1.0, "at": at}))
    assert torch.equal(model(x), dense(ROW)(x))


@torch.no_grad()
@BOUNDED
@given(st.floats(0.001, 1.0))
def test_budgets_are_met_and_not_wasted(share):
    """The largest plan not above the budget: the next keep rate that keeps a token more is above it."""
    model = dense(ROW)
    full = vitrim.profile(model).macs
    try:
        fast = vitrim.reduce(model, "topk", macs=share)
    except ValueError as error:
        assert "out of reach" in str(error)
        assert vitrim.profile(vitrim.reduce(model, "topk", keep=1e-6)).macs > share * full
        return
    assert vitrim.profile(fast).macs <= share * full
    if fast.methods[0].keep < 1:
        dearer = [vitrim.reduce(model, "topk", keep=min(fast.methods[0].keep + step, 1.0)) for step in (0.07, 0.2, 1.0)]
        plans = {vitrim.profile(one).macs for one in dearer} - {vitrim.profile(fast).macs}
        assert all(macs > share * full or macs == full for macs in plans)
