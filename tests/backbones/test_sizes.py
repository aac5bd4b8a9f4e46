"""Images that patches do not fill: cropped, padded or refused as timm does, bit for bit, and counted right."""

from __future__ import annotations

from functools import partial

import pytest
import timm
import torch
from counting import counted_macs
from settings import SMALL, randomise
from timm.models.deit import VisionTransformerDistilled
from timm.models.eva import Eva
from timm.models.swin_transformer import SwinTransformer
from timm.models.vision_transformer import VisionTransformer
from torch import nn

import vitrim
from vitrim.backbones import LVViT
from vitrim.runtime.build import attach

ROTARY = dict(use_rot_pos_emb=True, rope_type="dinov3", use_abs_pos_emb=False, num_reg_tokens=2)
WINDOWS = dict(patch_size=4, embed_dim=16, depths=(1, 1, 4, 1), num_heads=(1, 2, 4, 8), window_size=3, num_classes=7)
PADS = dict(dynamic_img_size=True, dynamic_img_pad=True)
CROPPED = {  # models at a size of their own that leaves a rest
    "vit": partial(VisionTransformer, **SMALL),
    "no class token": partial(VisionTransformer, **SMALL, class_token=False, global_pool="map"),
    "distilled": partial(VisionTransformerDistilled, **SMALL),
    "lvvit": partial(LVViT, **SMALL, stem_channels=8, token_labels=False),
    "eva": partial(Eva, **SMALL),
    "rotary": partial(Eva, **SMALL, **ROTARY),
    "swin": partial(SwinTransformer, **WINDOWS),
}
SIZES = [45, (45, 61)]


def made(build, **options) -> nn.Module:
    torch.manual_seed(0)
    return randomise(build(**options)).eval()


def reductions(model: nn.Module) -> list[tuple[str, dict]]:
    if isinstance(model, SwinTransformer):
        return [("idlevit", {"score": "predictor"}), ("tofe", {})]
    score = {} if model.cls_token is not None else {"score": "tokens"}
    return [("evit", {"at": (1, 2), **score}), ("tome", {"r": 3}), ("tofe", {"approximator": "conv"})]


def nothing(model: nn.Module) -> vitrim.ReducedViT:
    grid = isinstance(model, SwinTransformer)
    return attach(model, "idlevit" if grid else "random", keep=1.0, **({"score": "predictor"} if grid else {}))


def counted(model: nn.Module, x: torch.Tensor) -> int:
    """MACs of one image as torch counts them."""
    return counted_macs(model, x) // len(x)


def _agree(model: nn.Module, x: torch.Tensor, size: tuple[int, int] | None = None) -> None:
    fast = nothing(model)
    assert torch.equal(fast(x), model(x))
    assert torch.equal(fast.forward_features(x), model.forward_features(x))
    ours, theirs = (one.forward_intermediates(x) for one in (fast, model))
    assert all(torch.equal(a, b) for a, b in zip(ours[1], theirs[1], strict=True))
    assert vitrim.profile(model, size).macs == counted(model, x)
    for method, options in reductions(model):
        reduced = attach(model, method, **options)
        assert vitrim.profile(reduced, size).macs == counted(reduced, x), method
        assert (reduced(x) - model(x)).abs().max() > 1e-4
        _, trace = reduced(x, trace=True)
        assert vitrim.profile(reduced, size).tokens == [t.kept.shape[1] for t in trace]


@torch.no_grad()
@pytest.mark.parametrize("size", SIZES, ids=str)
@pytest.mark.parametrize("name", CROPPED)
def test_what_patches_do_not_fill_is_left_out_as_timm_does(name, size):
    model = made(CROPPED[name], img_size=size)
    height, width = (size, size) if isinstance(size, int) else size
    x = torch.randn(2, 3, height, width)
    _agree(model, x)
    with pytest.raises(ValueError, match="this model takes"):
        nothing(model)(torch.randn(1, 3, height + 1, width))


@torch.no_grad()
@pytest.mark.parametrize("size", [(40, 41), (33, 62), (8, 71)], ids=str)
@pytest.mark.parametrize("name", [name for name in CROPPED if name != "swin"])
def test_what_patches_do_not_fill_is_padded_as_timm_does(name, size):
    _agree(made(CROPPED[name], img_size=(37, 43), **PADS), torch.randn(2, 3, *size), size)


@torch.no_grad()
@pytest.mark.parametrize("name", ["vit", "rotary", "lvvit"])
def test_the_plan_of_a_padding_model_is_that_of_its_own_size(name):
    model = made(CROPPED[name], img_size=(37, 43), **PADS)
    assert vitrim.profile(model).patches == 5 * 6
    assert vitrim.profile(model).macs == counted(model, torch.randn(1, 3, 37, 43))


@torch.no_grad()
@pytest.mark.parametrize("name", ["vit", "rotary", "lvvit"])
def test_other_sizes_with_a_rest_are_refused_where_timm_refuses_them(name):
    model = made(CROPPED[name], dynamic_img_size=True)
    _agree(model, torch.randn(2, 3, 48, 24), (48, 24))
    with pytest.raises(ValueError, match="do not fill them"):
        nothing(model)(torch.randn(1, 3, 45, 40))
    with pytest.raises((AssertionError, ValueError)):
        model(torch.randn(1, 3, 45, 40))


@torch.no_grad()
def test_windows_of_any_size_with_a_rest_are_refused():
    model = made(CROPPED["swin"], img_size=48, strict_img_size=False)
    _agree(model, torch.randn(1, 3, 56, 44), (56, 44))
    with pytest.raises(ValueError, match="do not fill them"):
        nothing(model)(torch.randn(1, 3, 57, 44))


@torch.no_grad()
def test_a_timm_name_at_a_size_with_a_rest():
    small = dict(depth=4, embed_dim=48, num_heads=3, num_classes=10)
    model = randomise(timm.create_model("vit_tiny_patch16_224", img_size=70, **small)).eval()
    _agree(model, torch.randn(2, 3, 70, 70))
    model.set_input_size(img_size=(85, 64))
    _agree(model, torch.randn(2, 3, 85, 64))


@torch.no_grad()
def test_a_hybrid_stem_at_a_size_with_a_rest():
    """The stem runs over all pixels, whatever the patches leave out."""
    small = dict(depth=2, embed_dim=48, num_heads=3, num_classes=10)
    model = randomise(timm.create_model("vit_tiny_r_s16_p8_224", img_size=93, **small)).eval()
    x = torch.randn(1, 3, 93, 93)
    assert torch.equal(attach(model, "random", at=1, keep=1.0)(x), model(x))
    assert vitrim.profile(model).macs == counted(model, x)
