"""Images that a model takes stay welcome, in half precision and under autocast; answers.md has the others."""

from __future__ import annotations

import copy

import pytest
import timm
import torch

import vitrim


@pytest.fixture(scope="module")
def fast():
    return vitrim.reduce(timm.create_model("test_vit", img_size=64, num_classes=10).eval(), "evit")


@torch.no_grad()
def test_a_model_in_half_precision_takes_such_images_and_no_others(fast):
    half, images = copy.deepcopy(fast).bfloat16(), torch.rand(2, 3, 64, 64)
    assert half(images.bfloat16()).dtype == torch.bfloat16
    with pytest.raises(
        ValueError, match=r"images are float32 and the model bfloat16: give images.to\(torch.bfloat16\)"
    ):
        half(images)


@torch.no_grad()
def test_autocast_takes_float32_and_no_bytes(fast):
    images = torch.rand(2, 3, 64, 64)
    with torch.autocast("cpu", torch.bfloat16):
        assert fast(images).shape == (2, 10)
        with pytest.raises(ValueError, match="images are uint8: give floats"):
            fast((255 * images).to(torch.uint8))


def test_errors_that_are_not_about_the_images_stay_as_they_are(fast, monkeypatch):
    def broken(images):
        raise RuntimeError("out of paper")

    monkeypatch.setattr(fast.backbone.patch_embed.proj, "forward", broken)
    with pytest.raises(RuntimeError, match="out of paper"):
        fast(torch.rand(2, 3, 64, 64))
