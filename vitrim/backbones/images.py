"""What is wrong with images that a model could not take, and what to do about it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from os import PathLike
from typing import Any

import torch
from torch import Tensor, nn

from ..common.kinds_given import told
from ..common.text import shortened


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


_PREPARE = (
    "give floats, torchvision.transforms.functional.normalize(images / 255, mean, std), with the mean and std of "
    "vitrim.data.data_config(model)"
)


def _no_tensor(images: Any, channels: int) -> str:
    wanted = f"a tensor [batch, {channels}, height, width]"
    if images is None or isinstance(images, (str, bytes, PathLike)):
        return f"images are {told(images)}: {f'give {wanted}' if images is None else _opened(images)}"
    cls = type(images)
    name = cls.__name__ if cls.__module__ == "builtins" else f"{cls.__module__}.{cls.__name__}"
    found = f"images are of type {name}"
    if isinstance(images, Mapping):
        tensors = [key for key, value in images.items() if isinstance(value, Tensor) and value.dim() == 4]
        return f"{found}: give {f'images[{tensors[0]!r}]' if tensors else wanted}"
    if hasattr(images, "convert"):  # PIL's
        return f"{found}: give {_TRANSFORM}(image).unsqueeze(0)"
    if isinstance(images, Sequence) and images:
        return _of_several(found, images, wanted)
    return f"{found}: give {wanted}, such as torch.as_tensor(images)"


_TRANSFORM = "timm.data.create_transform(**vitrim.data.data_config(model))"


def _opened(images: Any) -> str:
    """What to do with a file's name, or with what a file holds."""
    file = "io.BytesIO(images)" if isinstance(images, bytes) else shortened(repr(str(images)), 60)
    return f'open it, image = PIL.Image.open({file}).convert("RGB"), and give {_TRANSFORM}(image).unsqueeze(0)'


def _of_several(found: str, images: Sequence[Any], wanted: str) -> str:
    """What to do with a list or tuple, by what it begins with."""
    first = images[0]
    if isinstance(first, Tensor) and first.dim() == 4:
        return f"{found}, what a loader gives: give {'its .images' if hasattr(images, 'images') else 'images[0]'}"
    if all(isinstance(image, Tensor) for image in images):
        return f"{found}, several tensors: give torch.stack(images)"
    if hasattr(first, "convert"):
        return f"{found}: give torch.stack([transform(image) for image in images]), with transform = {_TRANSFORM}"
    if isinstance(first, (str, PathLike)):
        return f"{found}, names of files: give batches of vitrim.data.open_loader(vitrim.data.open_dataset(...))"
    return f"{found}: give {wanted}, such as torch.as_tensor(images)"


def _other_kind(images: Tensor, weight: Tensor) -> str:
    if images.device != weight.device:
        return f'images are on {images.device} and the model on {weight.device}: give images.to("{weight.device}")'
    if images.dtype != weight.dtype and not torch.is_autocast_enabled(images.device.type):
        own = _bare(weight.dtype)
        return f"images are {_bare(images.dtype)} and the model {own}: give images.to(torch.{own})"
    return ""


def _bare(dtype: torch.dtype) -> str:
    return str(dtype).removeprefix("torch.")
