"""Law 8: analytic MACs are what torch's counter counts, exactly: no plan without exactness, on the meta device too."""

from __future__ import annotations

import pytest
import timm
import torch
from counting import counted_macs
from settings import BackboneRow, MethodRow, backbones, dense, families, images, pairs, reduced

import vitrim
from vitrim.common.on_meta import on_meta


def _planned(profile: vitrim.Profile, method: MethodRow) -> int:
    """The plan, less what the counter does not see (distances, elementwise products: counted by formula)."""
    return profile.macs - (method.uncounted_macs(profile) if method.uncounted else 0)


@pytest.mark.parametrize(("backbone", "method"), pairs("sample", where=lambda b, m: m.static))
def test_plan_is_torchs_count(backbone: BackboneRow, method: MethodRow):
    x, model = images(backbone), reduced(backbone, method)
    profile = vitrim.profile(model, backbone.image)
    assert counted_macs(model, x) == 2 * _planned(profile, method)
    assert min(profile.tokens) < profile.patches


@pytest.mark.parametrize("backbone", backbones())
def test_dense_plan_is_torchs_count(backbone: BackboneRow):
    x, model = images(backbone), dense(backbone)
    profile = vitrim.profile(model, backbone.image)
    assert counted_macs(model, x) == 2 * profile.macs == 2 * profile.dense_macs
    assert profile.params == sum(p.numel() for p in model.parameters())


@torch.no_grad()
@pytest.mark.parametrize(("backbone", "method"), pairs("star", where=lambda b, m: m.static))
def test_planned_token_counts_are_those_of_the_trace(backbone: BackboneRow, method: MethodRow):
    model = reduced(backbone, method)
    _, trace = model(images(backbone), trace=True)
    assert vitrim.profile(model, backbone.image).tokens == [record.kept.shape[1] for record in trace]


@pytest.mark.parametrize(("backbone", "method"), families())
def test_plan_on_the_meta_device(backbone: BackboneRow, method: MethodRow):
    model, x = reduced(backbone, method), images(backbone)
    profile = vitrim.profile(model, backbone.image)
    model.to("meta")
    assert vitrim.profile(model, backbone.image) == profile
    assert counted_macs(model, x.to("meta")) == 2 * _planned(profile, method)


REAL = (  # at full size: names, methods that fit them, image sizes
    ("deit_small_patch16_224", "evit", {"keep": 0.7}, 224),
    ("deit_small_distilled_patch16_224", "evit", {"keep": (0.9, 0.7, 0.5)}, 224),
    ("deit3_base_patch16_384", "topk", {"keep": 0.5, "at": (2, 5)}, 384),
    ("vit_small_patch14_reg4_dinov2", "evit", {"keep": 0.6}, 518),
    ("vit_giant_patch14_dinov2", "random", {"keep": 0.5}, 518),
    ("vit_base_patch16_siglip_224", "evit", {"keep": 0.7, "score": "tokens"}, 224),
    ("vit_so400m_patch14_siglip_gap_224", "grid", {"keep": 0.7}, 224),
    ("vit_base_patch32_clip_224", "evit", {"keep": 0.7, "fuse": False}, 224),
    ("vit_so150m_patch16_reg4_map_256", "random", {"keep": 0.7}, 256),
    ("vit_small_r26_s32_224", "evit", {"keep": 0.7}, 224),
    ("beit3_base_patch16_224", "evit", {"keep": 0.7}, 224),
    ("aimv2_large_patch14_224", "evit", {"keep": 0.7, "score": "tokens"}, 224),
)


@pytest.mark.parametrize(("name", "method", "options", "size"), REAL, ids=[row[0] for row in REAL])
def test_plan_of_real_models_on_the_meta_device(name, method, options, size):
    with on_meta():
        model = timm.create_model(name).eval()
        fast = vitrim.reduce(model, method, **options).eval()
        x = torch.empty(1, 3, size, size)
    assert counted_macs(model, x) == vitrim.profile(model).macs
    assert counted_macs(fast, x) == vitrim.profile(fast).macs


@pytest.mark.parametrize("size", [(32, 32), (40, 72), (96, 64), (33 + 7, 8)])
@pytest.mark.parametrize("method", ["evit", "random", "dynamicvit", "tome"])
def test_plan_at_any_image_size(method, size):
    row = next(b.values[0] for b in backbones(lambda b: b.name == "dynamic"))
    options = {"r": 3} if method == "tome" else {"keep": 0.7}
    model = reduced(row, MethodRow(method, method, options))
    x = torch.randn(3, 3, *size)
    assert counted_macs(model, x) == 3 * vitrim.profile(model, size).macs


@pytest.mark.parametrize(("pool", "classes"), [("", 7), ("", 0), ("avg", 7), ("token", 7)])
def test_plan_follows_a_reset_classifier(pool, classes):
    row = next(b.values[0] for b in backbones())
    model = vitrim.reduce(dense(row), "evit", keep=0.6)
    model.reset_classifier(classes, pool)
    assert counted_macs(model, images(row)) == 2 * vitrim.profile(model).macs


def test_plan_follows_set_input_size():
    row = next(b.values[0] for b in backbones())
    model = vitrim.reduce(dense(row), "evit", keep=0.6)
    before = vitrim.profile(model)
    model.backbone.set_input_size(img_size=(64, 48))
    assert vitrim.profile(model).patches == 48 != before.patches
    assert counted_macs(model, torch.randn(2, 3, 64, 48)) == 2 * vitrim.profile(model).macs
