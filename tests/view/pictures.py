"""A small model and pictures of noise to look at."""

from __future__ import annotations

import numpy as np
import timm
from PIL import Image
from settings import randomise

import vitrim

NAMES = ["n01440764", "golf_ball", "cat"]


def small(**options):
    """A DeiT of 4 blocks and 8 x 8 patches, which knows three classes by name."""
    size = dict(img_size=64, patch_size=8, embed_dim=48, depth=4, num_heads=3, num_classes=3)
    model = randomise(timm.create_model("deit_tiny_patch16_224", **{**size, **options})).eval()
    model.pretrained_cfg = {**model.pretrained_cfg, "label_names": NAMES[: model.num_classes] or None}
    return model


def noise(seed: int = 0, size: tuple[int, int] = (80, 96)) -> Image.Image:
    return Image.fromarray(np.random.default_rng(seed).integers(0, 256, (*size, 3), dtype=np.uint8))


def several(model=None):
    """One reduction of each kind: fused, merged, idle, pruned."""
    model = small() if model is None else model
    methods = vitrim.EViT(keep=0.5), vitrim.ToMe(r=8), vitrim.IdleViT(keep=0.5), vitrim.TopK(keep=0.5)
    return [vitrim.reduce(model, method) for method in methods]
