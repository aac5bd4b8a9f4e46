"""Law 1, for predictions: a last block that computes class tokens alone gives the same logits up to rounding and costs
what is planned, and nobody who asks for more than the prediction gets less."""

from __future__ import annotations

from dataclasses import replace
from functools import partial

import pytest
import timm
import torch
from counting import counted_macs
from settings import BACKBONES, BackboneRow, MethodRow, backbones, dense, images, pairs, reduced

import vitrim
from vitrim.runtime.build import attach

POOLS = (
    "gap",
    "siglip",
    "gap_no_cls",
    "gap_registers",
    "avgmax",
    "max",
    "lvvit",
    "eva02",
    "dinov3",
    "swin",
    "hf_siglip",
)
READS_CLASS = [row.name for row in BACKBONES if row.name not in (*POOLS, "hf_dinov3")]  # which returns its tokens


def _reads_class(backbone: BackboneRow, method: MethodRow) -> bool:
    return backbone.name in READS_CLASS


def _both(backbone: BackboneRow, method: MethodRow) -> tuple[vitrim.ReducedViT, vitrim.ReducedViT]:
    """The row's model, and the same that computes no more than the prediction."""
    whole = reduced(backbone, method)
    alone = vitrim.ReducedViT(whole.backbone, list(whole.methods), prediction_only=True).eval()
    alone.methods.load_state_dict(whole.methods.state_dict())
    return whole, alone


@torch.no_grad()
@pytest.mark.parametrize(("backbone", "method"), pairs("sample", where=_reads_class))
def test_the_logits_are_the_same_up_to_rounding(backbone, method):
    whole, alone = _both(backbone, method)
    x = images(backbone)
    assert torch.allclose(whole(x), alone(x), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(("backbone", "method"), pairs("cover", where=lambda b, m: _reads_class(b, m) and m.static))
def test_the_plan_is_torchs_count(backbone, method):
    whole, alone = _both(backbone, method)
    cost, x = vitrim.profile(alone, backbone.image), images(backbone)
    uncounted = method.uncounted_macs(cost) if method.uncounted else 0
    assert counted_macs(alone, x) == len(x) * (cost.macs - uncounted)
    assert cost.macs < vitrim.profile(whole, backbone.image).macs
    assert cost.blocks[-1].mlp_tokens == 0


@torch.no_grad()
@pytest.mark.parametrize("backbone", backbones(lambda b: b.name in READS_CLASS))
def test_the_dense_model_too(backbone):
    model, x = dense(backbone), images(backbone)
    fast = attach(model, [], prediction_only=True)
    assert torch.allclose(model(x), fast(x), rtol=1e-4, atol=1e-5)
    assert counted_macs(fast, x) == len(x) * vitrim.profile(fast, backbone.image).macs
    assert vitrim.profile(fast).dense_macs == vitrim.profile(model).macs > vitrim.profile(fast).macs


@torch.no_grad()
def test_features_traces_losses_and_training_get_every_token():
    row = next(row for row in BACKBONES if row.name == "deit")
    whole, alone = _both(row, MethodRow("evit", "evit", {"keep": 0.6}))
    x = images(row)
    assert torch.equal(whole.forward_features(x), alone.forward_features(x))
    assert torch.equal(whole.forward_features(x, restore=True), alone.forward_features(x, restore=True))
    for ours, theirs in zip(whole(x, trace=True)[1], alone(x, trace=True)[1], strict=True):
        assert torch.equal(ours.kept, theirs.kept)
    assert torch.equal(whole(x, losses=True)[1].tokens.x, alone(x, losses=True)[1].tokens.x)
    last, norm = alone.backbone.blocks[-1], alone.backbone.norm
    for module in (last, last.mlp, last.norm2, norm):
        seen = []
        handle = module.register_forward_hook(lambda module, inputs, output, seen=seen: seen.append(output.shape))
        alone(x)
        handle.remove()
        assert seen[0][1] == whole.forward_features(x).shape[1], "a hook sees all tokens of the last block"
    assert torch.equal(whole.train()(x), alone.train()(x))


@pytest.mark.parametrize("backbone", backbones(lambda b: b.name in POOLS))
def test_a_head_that_reads_more_is_refused(backbone):
    with pytest.raises(ValueError, match="prediction_only needs a head that reads class tokens alone"):
        vitrim.reduce(dense(backbone), [], prediction_only=True)


def test_what_changes_later_is_refused_too():
    row = next(row for row in BACKBONES if row.name == "deit")
    fast = vitrim.reduce(dense(row), "evit", prediction_only=True)
    fast.reset_classifier(5, "avg")
    with pytest.raises(ValueError, match="pooling is 'avg'"):
        fast(images(row))


@torch.no_grad()
def test_it_is_saved_counts_in_budgets_and_is_printed(tmp_path):
    model = timm.create_model("test_vit", num_classes=3).eval()
    fast = vitrim.reduce(model, "evit", macs=0.6, prediction_only=True)
    assert vitrim.profile(fast).share <= 0.6
    assert fast.methods[0].keep > vitrim.reduce(model, "evit", macs=0.6).methods[0].keep
    assert "the last block computes class tokens alone" in repr(fast)
    again = vitrim.load(vitrim.save(fast, tmp_path / "fast"))
    x = torch.randn(2, 3, 160, 160)
    assert again.prediction_only and torch.equal(fast.eval()(x), again(x))
    bare = vitrim.load(vitrim.save(vitrim.reduce(model, [], prediction_only=True), tmp_path / "dense"))
    assert not bare.methods and torch.equal(bare(x), vitrim.reduce(model, [], prediction_only=True).eval()(x))


@torch.no_grad()
@pytest.mark.parametrize("name", ["rope_mixed"])
def test_graphs_serve_any_number_of_images(name):
    row = next(row for row in BACKBONES if row.name == name)
    row = replace(row, build=partial(row.build, depth=2))
    _, alone = _both(row, MethodRow("evit", "evit", {"keep": 0.6, "at": 0}))
    x = images(row, batch=3)
    compiled = torch.compile(alone, fullgraph=True, backend="eager", dynamic=True)
    traced = torch.jit.trace(alone, x[:2])
    program = torch.export.export(alone, (x[:2],), dynamic_shapes=({0: torch.export.Dim.DYNAMIC},)).module()
    for run in (compiled, traced, program):
        for k in (3, 1):
            torch.testing.assert_close(run(x[:k]), alone(x[:k]), rtol=1e-4, atol=1e-5)
