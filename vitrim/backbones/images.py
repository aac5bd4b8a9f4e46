"""What is wrong with images that a model could not take, and what to do about it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn


def trouble_with(images: Any, model: nn.Module) -> str:
    """In one line; empty where nothing is wrong with the images as such. Asked after a failure only."""
    first = _first(getattr(model, "patch_embed", model))
    channels = 3 if first is None else first.in_channels
    if not isinstance(images, Tensor):
        return _no_tensor(images, channels)
    shape = f"images are {list(images.shape)}"
    wanted = f"[batch, {channels}, height, width]"
    if images.dim() == 3 and images.shape[0] == channels:
        return f"{shape}, one image without a batch: give images.unsqueeze(0)"
    if images.dim() != 4:
        return f"{shape}: give {wanted}"
    if images.shape[1] != channels:
        last = images.shape[3] == channels
        way = "give images.permute(0, 3, 1, 2)" if last else f"give {wanted}, or create the model with in_chans="
        return f"{shape}, and the model takes {channels} channels: {way}{'' if last else images.shape[1]}"
    if not images.is_floating_point():
        return f"images are {_bare(images.dtype)}: {_PREPARE}"
    return "" if first is None else _other_kind(images, first.weight)


def _first(embed: nn.Module) -> nn.Conv2d | None:
    """The convolution that sees the images; LV-ViT's stem has some before its projection."""
    stem: Any = getattr(embed, "conv1", None)
    found = (module for module in embed.modules() if isinstance(module, nn.Conv2d))
    return stem if isinstance(stem, nn.Conv2d) else next(found, None)


_PREPARE = "give floats, (images / 255 - mean) / std, with the mean and std of vitrim.data.data_config(model)"


def _no_tensor(images: Any, channels: int) -> str:
    cls = type(images)
    name = cls.__name__ if cls.__module__ == "builtins" else f"{cls.__module__}.{cls.__name__}"
    found = f"images are of type {name}"
    if isinstance(images, Sequence) and images and all(isinstance(image, Tensor) for image in images):
        return f"{found}, several tensors: give torch.stack(images)"
    if hasattr(images, "convert"):  # PIL's
        return f"{found}: give timm.data.create_transform(**vitrim.data.data_config(model))(image).unsqueeze(0)"
    return f"{found}: give a tensor [batch, {channels}, height, width], such as torch.as_tensor(images)"


def _other_kind(images: Tensor, weight: Tensor) -> str:
    if images.device != weight.device:
        return f'images are on {images.device} and the model on {weight.device}: give images.to("{weight.device}")'
    if images.dtype != weight.dtype and not torch.is_autocast_enabled(images.device.type):
        own = _bare(weight.dtype)
        return f"images are {_bare(images.dtype)} and the model {own}: give images.to(torch.{own})"
    return ""


def _bare(dtype: torch.dtype) -> str:
    return str(dtype).removeprefix("torch.")
