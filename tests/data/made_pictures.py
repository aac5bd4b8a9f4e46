"""Pictures of noise in folders, and a model to judge them, or its classes alone; for the tests of this folder."""

from __future__ import annotations

import io

import numpy as np
import pytest
import timm
from PIL import Image

from vitrim.data.matching import match_classes


def small_vit(num_classes=3, img_size=32, **options):
    size = dict(img_size=img_size, patch_size=16, embed_dim=16, depth=1, num_heads=2)
    return timm.create_model("vit_tiny_patch16_224", num_classes=num_classes, **{**size, **options}).eval()


def picture(seed=0, size=(40, 50), kind="PNG"):
    pixels = np.random.default_rng(seed).integers(0, 256, (*size, 3), dtype=np.uint8)
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, kind)
    return file.getvalue()


def fill(root, names, each=2):
    for c, name in enumerate(names):
        (root / name).mkdir(parents=True)
        for i in range(each):
            (root / name / f"{i}.png").write_bytes(picture(10 * c + i))
    return root


def flat(root, names):
    root.mkdir(parents=True, exist_ok=True)
    for i, name in enumerate(names):
        (root / name).write_bytes(picture(i))
    return root


def matched(names, num_classes=1000, label_names=None, **options):
    return match_classes(names, num_classes, label_names, "pictures", **options)


def refused(names, num_classes=1000, label_names=None, kind=ValueError, **options):
    with pytest.raises(kind) as caught:
        matched(names, num_classes, label_names, **options)
    said = str(caught.value)
    assert "\n" not in said and len(said) <= 300
    return said
