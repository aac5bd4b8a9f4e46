"""LV-ViT's four sizes, registered with timm. No weights are published in a form that timm could fetch."""

from __future__ import annotations

from timm.models import build_model_with_cfg, generate_default_cfgs, register_model
from timm.models.vision_transformer import checkpoint_filter_fn

from .model import LVViT


def _cfg(crop_pct: float) -> dict:
    return {
        "url": "",
        "num_classes": 1000,
        "input_size": (3, 224, 224),
        "pool_size": None,
        "crop_pct": crop_pct,
        "interpolation": "bicubic",
        "fixed_input_size": True,
        "mean": (0.485, 0.456, 0.406),
        "std": (0.229, 0.224, 0.225),
        "first_conv": "patch_embed.conv1",
        "classifier": ("head", "aux_head"),
        "license": "apache-2.0",
    }


default_cfgs = generate_default_cfgs(
    {"lvvit_t": _cfg(0.9), "lvvit_s": _cfg(0.9), "lvvit_m": _cfg(1.0), "lvvit_l": _cfg(1.0)}
)


def _create(variant: str, pretrained: bool, defaults: dict, given: dict) -> LVViT:
    return build_model_with_cfg(
        LVViT,
        variant,
        pretrained,
        pretrained_filter_fn=checkpoint_filter_fn,
        feature_cfg={"out_indices": 3, "feature_cls": "getter"},
        **{**defaults, **given},
    )


@register_model
def lvvit_t(pretrained: bool = False, **kwargs) -> LVViT:
    """LV-ViT-T: 12 blocks of 240 channels, 8.5 M parameters."""
    return _create("lvvit_t", pretrained, dict(embed_dim=240, depth=12, num_heads=4, skip_lam=1.0), kwargs)


@register_model
def lvvit_s(pretrained: bool = False, **kwargs) -> LVViT:
    """LV-ViT-S: 16 blocks of 384 channels, 26 M parameters."""
    return _create("lvvit_s", pretrained, dict(embed_dim=384, depth=16, num_heads=6, skip_lam=2.0), kwargs)


@register_model
def lvvit_m(pretrained: bool = False, **kwargs) -> LVViT:
    """LV-ViT-M: 20 blocks of 512 channels, 56 M parameters."""
    return _create("lvvit_m", pretrained, dict(embed_dim=512, depth=20, num_heads=8, skip_lam=2.0), kwargs)


@register_model
def lvvit_l(pretrained: bool = False, **kwargs) -> LVViT:
    """LV-ViT-L: 24 blocks of 768 channels with a stem of 128, 150 M parameters."""
    sizes = dict(embed_dim=768, depth=24, num_heads=12, skip_lam=3.0, stem_channels=128)
    return _create("lvvit_l", pretrained, sizes, kwargs)
