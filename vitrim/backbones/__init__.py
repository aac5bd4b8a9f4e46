"""Backbone families: one class, one file each."""

from __future__ import annotations

from torch import nn

from .admission import refuse
from .base import Backbone
from .layers import kind
from .lvvit import names  # noqa: F401  registers lvvit_t, _s, _m, _l with timm
from .lvvit.model import LVViT, LVViTBackbone
from .lvvit.token_labels import TokenLogits
from .timm.plain import PlainBackbone
from .timm.rope import RopeBackbone
from .timm.swin import SwinBackbone

FAMILIES: tuple[type[Backbone], ...] = (PlainBackbone, LVViTBackbone, RopeBackbone, SwinBackbone)


def find_family(model: nn.Module) -> type[Backbone]:
    """The family that runs exactly this type of model.

    Raises ValueError for every model that no family lists: a subclass may compute something else in its forward; and
    for one with something on it that its family would go around (a forward of its own, a wrapped block).
    """
    for family in FAMILIES:
        if kind(model) in family.models:
            _check_parts(model)
            family.check(model)
            refuse(model, family)
            return family
    supported = ", ".join(m.__name__ for family in FAMILIES for m in family.models)
    inner = "; give what its get_base_model() returns" if hasattr(model, "get_base_model") else ""  # peft's wrapper
    name = type(model).__name__
    raise ValueError(f"{name} is not supported: no backbone lists this exact type. Supported are {supported}{inner}")


def _check_parts(model: nn.Module) -> None:
    """Raise ValueError for a wrapper in the place of a part that a family looks into."""
    blocks = getattr(model, "blocks", None)
    if blocks is not None and not isinstance(blocks, (nn.Sequential, nn.ModuleList)):
        name = type(blocks).__name__
        raise ValueError(f"blocks is a {name}, only torch's Sequential is supported: wrap the reduced model instead")
    embed = getattr(model, "patch_embed", None)
    missing = [name for name in ("grid_size", "img_size", "dynamic_feat_size") if not hasattr(embed, name)]
    if missing:
        raise ValueError(
            f"patch_embed is a {type(embed).__name__} without {', '.join(missing)}, which say how an image is cut into "
            "patches: give it these attributes, or wrap patch_embed.proj instead"
        )


__all__ = [
    "FAMILIES",
    "Backbone",
    "LVViT",
    "LVViTBackbone",
    "PlainBackbone",
    "RopeBackbone",
    "SwinBackbone",
    "TokenLogits",
    "find_family",
]
