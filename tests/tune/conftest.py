"""A model that answers for what its tokens hold."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import timm
import torch


@pytest.fixture(scope="session")
def small_vit() -> Callable[[int], torch.nn.Module]:
    """Makes a ViT of five blocks for images of so many pixels, with patches of 8."""

    def made(pixels: int) -> torch.nn.Module:
        torch.manual_seed(0)
        options = dict(img_size=pixels, patch_size=8, embed_dim=24, depth=5, num_heads=3, num_classes=6)
        model = timm.create_model("vit_tiny_patch16_224", **options).eval()
        for parameter in model.parameters():
            if parameter.dim() > 1:
                torch.nn.init.normal_(parameter, std=0.3)
        return model

    return made
