"""Small models to save, and one that says which save it is from: its weights and its options must agree."""

from __future__ import annotations

import timm
import torch
from settings import CLASSES, randomise
from torch import nn

import vitrim

TINY = dict(img_size=40, patch_size=8, embed_dim=48, depth=4, num_heads=3, num_classes=CLASSES)
X = torch.randn(2, 3, 40, 40, generator=torch.Generator().manual_seed(0))
FILES = ["config.json", "model.safetensors"]


def tiny(name: str = "deit_tiny_patch16_224", **options) -> nn.Module:
    return randomise(timm.create_model(name, **{**TINY, **options})).eval()


def saved(model: vitrim.ReducedViT, folder) -> vitrim.ReducedViT:
    model.save(folder)
    return vitrim.load(folder)


def numbered(number: int) -> vitrim.ReducedViT:
    """Weights that are all `number`, at a keep rate that tells it too."""
    model = timm.create_model("deit_tiny_patch16_224", **{**TINY, "depth": 2, "embed_dim": 24, "num_heads": 2})
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.fill_(number)
    return vitrim.reduce(model.eval(), "evit", keep=(number + 1) / 100, at=1)


def number_of(model: vitrim.ReducedViT) -> int:
    """Which `numbered` model it is. Raises AssertionError for a mixture of two."""
    found = {float(value) for p in model.parameters() for value in (p.min(), p.max())}
    found.add(round(model.methods[0].keep * 100) - 1)
    assert len(found) == 1, f"a mixture of saves: {sorted(found)}"
    return int(found.pop())
