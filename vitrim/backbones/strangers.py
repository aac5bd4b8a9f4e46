"""What to do about a model that no backbone runs: in words, by where it comes from."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from difflib import get_close_matches
from pathlib import Path
from typing import Any

from torch import nn

from ..common.places import EXPORTED
from .base import Backbone
from .library import Library
from .transformers.dialects import ENTRIES
from .transformers.towers import READERS, why_not

EXAMPLE = "deit_small_patch16_224"
# Other libraries' models, and where timm has the same weights.
_ELSEWHERE = {
    "torchvision": "vit_base_patch16_224",
    "open_clip": "vit_base_patch16_clip_224",
    "dinov2": "vit_base_patch14_dinov2",
}


def no_model(model: object, libraries: Sequence[Library]) -> str:
    """Why this is no dense model of one of the libraries, and what to give instead."""
    if isinstance(model, nn.Module) and _home(model) not in _ELSEWHERE:
        return f"{named(model)} is no model of {_names(libraries)}: give the dense model itself, without wrappers"
    return unsupported(model, libraries, ())


def unsupported(model: object, libraries: Sequence[Library], families: Iterable[type[Backbone]]) -> str:
    """Why no family runs this, and what to give instead."""
    factory = libraries[0].factory
    if isinstance(model, (str, Path)) and Path(model).is_dir():
        return f"a model is wanted, and {str(model)[:60]!r} is a folder: give what vitrim.load makes of it"
    if isinstance(model, (str, Path)) and Path(model).suffix in EXPORTED:
        return f"a model is wanted, and {str(model)[:60]!r} is an exported file: give what it was made from"
    if isinstance(model, str):
        return f'a model is wanted, and {model[:60]!r} is its name: give {factory}("{model[:60]}", pretrained=True)'
    if not isinstance(model, nn.Module):
        return f'{named(model)} is no model: give one such as {factory}("{EXAMPLE}", pretrained=True)'
    if _home(model) == "transformers":
        reason = why_not(type(model).__name__)
        if reason is not None:
            return f"{named(model)} is not supported: {reason}"
        near = get_close_matches(type(model).__name__, {**ENTRIES, **READERS}, n=3, cutoff=0.0)
        return f"{named(model)} is not supported: of transformers vitrim runs {', '.join(near)}, and others like them"
    same = _ELSEWHERE.get(_home(model))
    if same is not None:
        return f'{named(model)} is not a {_names(libraries)} model: create it by {factory}("{same}", pretrained=True)'
    if hasattr(model, "get_base_model"):  # peft's wrapper
        return f"{named(model)} is a wrapper, which would be lost: give what its get_base_model() returns"
    exact = [cls for family in families for cls in family.models]
    types = ", ".join(cls.__name__ for cls in exact)
    themselves = ", not subclasses, which may compute something else" if isinstance(model, tuple(exact)) else ""
    listed = _names([library for library in libraries if library.has_list])
    return f"{named(model)} is not supported: vitrim runs {listed}'s {types}{themselves}; `vitrim methods` lists models"


def named(model: Any) -> str:
    """The class with the module that it comes from.

    Example:
        >>> named(model)
        'timm.models.vision_transformer.VisionTransformer'
    """
    cls = type(model)
    return cls.__name__ if cls.__module__ == "builtins" else f"{cls.__module__}.{cls.__name__}"


def _home(model: object) -> str:
    return type(model).__module__.partition(".")[0]


def _names(libraries: Sequence[Library]) -> str:
    return " or ".join(library.name for library in libraries)
