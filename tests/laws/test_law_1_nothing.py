"""Law 1: no reduction is timm itself, bit for bit, for every supported name, in training too."""

from __future__ import annotations

import functools
import os
import re

import pytest
import timm
import torch
from settings import (
    CLASSES,
    METHODS,
    REFUSED_NAMES,
    BackboneRow,
    backbones,
    dense,
    images,
    nothing,
    pairs,
    randomise,
    reduced,
)
from torch import Tensor

import vitrim

SIZES = "\\d+b|xsmall|tiny|wee|small|little|mediumd?|betwixt|base|so\\d+m2?|intern300m|large|huge|gigantic"


def _names() -> list[str]:
    """One timm name of every kind (names without size, patch and resolution); all names with VITRIM_ALL_NAMES=1.

    Left out: names that test_refusals_models.py shows to be refused, and hybrids with a large ResNet for a stem.
    """
    kinds: dict[str, str] = {}
    for name in sorted({n for module in ("vision_transformer", "deit") for n in timm.list_models(module=module)}):
        kind = (
            name
            if os.environ.get("VITRIM_ALL_NAMES")
            else re.sub(rf"_({SIZES})(?=_|$)|_patch\d+|_\d+(?=_|$)", "", name)
        )
        if name not in REFUSED_NAMES:
            kinds.setdefault(kind, name)
    return [*kinds.values(), "vit_tiny_r_s16_p8_224"]


@functools.cache
def _dense_logits(backbone: BackboneRow) -> Tensor:
    return dense(backbone)(images(backbone))


@torch.no_grad()
@pytest.mark.parametrize(("backbone", "method"), pairs(where=lambda b, m: m.off is not None))
def test_keep_everything_is_timm_bitwise(backbone, method):
    assert torch.equal(reduced(backbone, method.switched_off())(images(backbone)), _dense_logits(backbone))


@torch.no_grad()
@pytest.mark.parametrize(("backbone", "method"), pairs("star"))
def test_reduction_changes_the_logits(backbone, method):
    """The control of the test above: on these models a reduction is seen in the logits."""
    x = images(backbone)
    assert (reduced(backbone, method)(x) - dense(backbone)(x)).abs().max() > 1e-3


def _trained(model: torch.nn.Module, x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Logits in training mode under a fixed seed, and the gradient of the patch embedding."""
    torch.manual_seed(1)
    logits = model.train()(x)
    logits.square().sum().backward()
    embed = next(module for module in model.modules() if isinstance(module, torch.nn.Conv2d))
    return logits.detach(), embed.weight.grad


@pytest.mark.parametrize("backbone", backbones())
def test_training_mode_is_the_models_bitwise(backbone):
    x = images(backbone)
    ours = _trained(nothing(backbone), x)
    theirs = _trained(dense(backbone), x)
    assert all(torch.equal(a, b) for a, b in zip(ours, theirs, strict=True))


@torch.no_grad()
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float64])
def test_other_precisions_are_timm_bitwise(dtype):
    row = next(b.values[0] for b in backbones())
    x = images(row).to(dtype)
    assert torch.equal(reduced(row, METHODS[0], keep=1.0).to(dtype)(x), dense(row).to(dtype)(x))


@torch.no_grad()
@pytest.mark.parametrize("name", _names())
def test_every_timm_name_bitwise(name):
    """timm's own names, two blocks deep, 48 wide and at a small size, else as they are."""
    narrow = {} if "mci" in name else {"embed_dim": 48, "num_heads": 3}  # this one's stem sets the width
    size = 224 if "patch32" in name or "_s" in name or "mci" in name else 112
    model = timm.create_model(name, depth=2, img_size=size, num_classes=CLASSES, **narrow)
    model = randomise(model).eval()
    x = torch.randn(1, 3, size, size)
    assert torch.equal(vitrim.reduce(model, "random", at=1, keep=1.0)(x), model(x))
    logits = vitrim.reduce(model, "random", at=1, keep=0.5)(x)
    assert logits.shape == model(x).shape and logits.isfinite().all()
