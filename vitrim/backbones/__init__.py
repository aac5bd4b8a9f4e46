"""Backbone families: one class, one file each; and the libraries that their models come from."""

from __future__ import annotations

from torch import nn

from ..common.absent import near_path
from .admission import refuse
from .base import Backbone
from .layers import kind
from .library import Library
from .lvvit import names  # noqa: F401  registers lvvit_t, _s, _m, _l with timm
from .lvvit.model import LVViT, LVViTBackbone
from .lvvit.token_labels import TokenLogits
from .strangers import no_model, unsupported
from .timm.library import TimmLibrary
from .timm.plain import PlainBackbone
from .timm.rope import RopeBackbone
from .timm.swin import SwinBackbone
from .transformers.family import TransformersBackbone
from .transformers.library import TransformersLibrary

FAMILIES: tuple[type[Backbone], ...] = (PlainBackbone, LVViTBackbone, RopeBackbone, SwinBackbone, TransformersBackbone)
TIMM = TimmLibrary(FAMILIES[:-1])
TRANSFORMERS = TransformersLibrary((TransformersBackbone,))
LIBRARIES: tuple[Library, ...] = (TIMM, TRANSFORMERS)


def library_of(model: nn.Module) -> Library:
    """The library that a dense model comes from.

    Raises ValueError for a model of none of them, a reduced or wrapped one included.

    Example:
        >>> library_of(model).name, library_of(model).architecture(model)
        ('timm', 'deit_tiny_patch16_224')
    """
    for library in LIBRARIES:
        if library.owns(model):
            return library
    raise ValueError(no_model(model, LIBRARIES))


def library_with(name: str) -> Library:
    """The library that makes a model of that name, from its list or from where it looks it up.

    Raises ValueError, with names that look like it, for a name that no library knows.

    Example:
        >>> library_with("deit_tiny_patch16_224").name
        'timm'
    """
    for library in LIBRARIES:
        if library.looks_up(name) or library.has_model(name):
            library.check_installed()
            return library
    near = [near_name for library in LIBRARIES for near_name in library.near_names(name)]
    near = [place, *near] if (place := near_path(name)) else near
    hint = f"did you mean {', '.join(near)}?" if near else "; ".join(library.listing for library in LIBRARIES)
    listed = " and ".join(library.name for library in LIBRARIES if library.has_list)
    raise ValueError(f"{listed} has no model {name!r}: {hint}")


def find_family(model: nn.Module) -> type[Backbone]:
    """The family that runs exactly this type of model.

    Raises ValueError for every model that no family lists: a subclass may compute something else in its forward; and
    for one that was changed where its family would not notice (a forward of its own, a wrapped block).

    Example:
        >>> find_family(model).__name__
        'PlainBackbone'
        >>> find_family(timm.create_model("resnet18"))
        Traceback (most recent call last):
        ValueError: timm.models.resnet.ResNet is not supported: vitrim runs timm's VisionTransformer, ...
    """
    for family in FAMILIES:
        if family.runs(kind(model)):
            if TIMM.owns(model):
                _check_parts(model)
            family.check(model)
            refuse(model, family)
            return family
    raise ValueError(unsupported(model, LIBRARIES, FAMILIES))


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
    "LIBRARIES",
    "TIMM",
    "Backbone",
    "LVViT",
    "LVViTBackbone",
    "Library",
    "PlainBackbone",
    "RopeBackbone",
    "SwinBackbone",
    "TokenLogits",
    "TransformersBackbone",
    "find_family",
    "library_of",
    "library_with",
]
