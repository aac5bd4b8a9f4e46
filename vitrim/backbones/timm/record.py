"""What a timm model says about itself: its `pretrained_cfg`, and the names of its parts in a checkpoint."""

from __future__ import annotations

from typing import Any

from torch import nn

USUAL = {"classifier": "head", "first_conv": "patch_embed.proj"}  # for a model that names no such part


def config_of(model: nn.Module) -> dict[str, Any]:
    """The model's `pretrained_cfg`; empty for a model that was not made by timm's factory."""
    return getattr(model, "pretrained_cfg", None) or {}


def part_keys(model: nn.Module) -> dict[str, tuple[str, ...]]:
    """What the names of weights begin with, of the classifier and of the first convolution: `("head.",)`."""
    named = {part: config_of(model).get(part) or usual for part, usual in USUAL.items()}
    return {
        part: tuple(f"{key}." for key in ((keys,) if isinstance(keys, str) else keys)) for part, keys in named.items()
    }
