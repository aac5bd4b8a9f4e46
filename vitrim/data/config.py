"""How a model wants its photographs: timm's data configuration, checked."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

from timm.data import resolve_data_config
from torch import nn

from ..common.errors import OptionError
from ..common.text import counted, shortened
from ..common.unwrapping import innermost

_NAMES = {
    "interpolation": ("nearest", "bilinear", "bicubic", "box", "hamming", "lanczos"),
    "crop_mode": ("center", "squash", "border"),
}


def data_config(model: nn.Module, img_size: int | tuple[int, int] | None = None) -> dict:
    """How a model wants its images: timm's data configuration (size, mean, std, interpolation, crop).

    Raises ValueError for a configuration with which no photograph can be prepared.

    Example:
        >>> vitrim.data.data_config(model)["input_size"], vitrim.data.data_config(model)["crop_pct"]
        ((3, 128, 128), 0.9)
    """
    model = innermost(model)
    return config_of(model, carried_config(model), None, img_size)


def carried_config(model: nn.Module) -> dict:
    """What a model carries about its images and classes, by timm's names; it may be nothing.

    Raises ValueError for a model of transformers, which says such things elsewhere.
    """
    if type(model).__module__.startswith("transformers."):
        name = type(model).__name__
        raise ValueError(f"{name} is a model of transformers: give vitrim.for_images(model), which knows its images")
    return getattr(model, "pretrained_cfg", None) or {}


def config_of(
    model: nn.Module | None, cfg: dict, crop_pct: float | None, img_size: int | tuple[int, int] | None
) -> dict:
    """timm's data configuration; the model's patch embedding knows its size better than its `pretrained_cfg`."""
    if crop_pct is not None and not 0 < crop_pct <= 1:
        raise OptionError({"crop_pct": crop_pct}, ": give a share in (0, 1], such as 0.9")
    embeds = filter(_is_patch_embed, model.modules()) if model is not None else ()
    embed: Any = next(iter(embeds), None)
    size = _size(embed, img_size)
    # LV-ViT's stem has convolutions before its projection.
    first: Any = getattr(embed, "conv1", getattr(embed, "proj", None))
    channels = first.in_channels if embed else cfg.get("input_size", (3,))[0]
    args = {"crop_pct": crop_pct, "input_size": (channels, *size) if size else None, "in_chans": channels}
    _check(cfg)
    config = resolve_data_config(args, pretrained_cfg=cfg, model=model)
    if channels not in (1, 3) or len(config["mean"]) != channels or len(config["std"]) != channels:
        raise OptionError(
            f"the model takes {counted(channels, 'channel')} and its mean has {len(config['mean'])}: photographs are "
            "RGB, or gray for a model with one channel, and one number as ",
            {"mean": ..., "std": ...},
        )
    return config


def _is_patch_embed(module: nn.Module) -> bool:
    """Whether a module cuts images into patches by its own convolution, and knows of which size: timm's `PatchEmbed`.
    One with a whole network in front of its projection sees no image, so it can't tell the channels."""
    return all(hasattr(module, name) for name in ("proj", "strict_img_size", "dynamic_img_pad")) and not hasattr(
        module, "backbone"
    )


def _size(embed: Any, img_size: int | tuple[int, int] | None) -> tuple[int, int] | None:
    fixed = getattr(embed, "img_size", None)
    size = (img_size, img_size) if isinstance(img_size, int) else img_size or fixed
    if size is not None and min(size) < 1:
        raise OptionError({"img_size": img_size}, ": give pixels, from 1")
    if size is not None and fixed and embed.strict_img_size and tuple(size) != tuple(fixed):
        raise ValueError(
            f"the model takes {fixed[0]} x {fixed[1]} pixels and img_size asks for {size[0]} x {size[1]}: "
            f"create the model with img_size={img_size} or dynamic_img_size=True"
        )
    return size


def _check(cfg: dict) -> None:
    """A `pretrained_cfg` may come from a file: timm would ask for trouble at the first photograph."""
    for key, allowed in _NAMES.items():
        if cfg.get(key) and cfg[key] not in allowed:
            _refuse(key, cfg[key], f"timm knows {', '.join(allowed)}")
    for key in ("mean", "std"):
        if cfg.get(key) and not _are_numbers(cfg[key], above=0 if key == "std" else -math.inf):
            _refuse(key, cfg[key], "give a number for each channel")
    if cfg.get("crop_pct") and not _are_numbers([cfg["crop_pct"]], above=0):
        _refuse("crop_pct", cfg["crop_pct"], "give a share, such as 0.9")


def _are_numbers(values: Any, above: float) -> bool:
    return isinstance(values, Sequence) and all(
        isinstance(number, (int, float)) and not isinstance(number, bool) and above < number < math.inf
        for number in values
    )


def _refuse(key: str, value: Any, wanted: str) -> None:
    raise ValueError(f"the model's pretrained_cfg has {key}={shortened(repr(value))}: {wanted}")
