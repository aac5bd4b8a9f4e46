"""What a file takes and says of itself: images that are normalised or not yet, and its metadata."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from .._version import __version__
from ..backbones import library_of
from ..runtime.describing import methods_config
from ..runtime.model import ReducedViT
from ..runtime.profile import profile


class Prepared(nn.Module):
    """A model with the last steps of its preprocessing: uint8 images [b, height, width, 3] to logits [b, k]."""

    mean: Tensor
    std: Tensor

    def __init__(self, model: nn.Module, mean: Sequence[float], std: Sequence[float]):
        super().__init__()
        self.model = model
        self.register_buffer("mean", torch.tensor(mean).view(1, -1, 1, 1))
        self.register_buffer("std", torch.tensor(std).view(1, -1, 1, 1))

    def forward(self, images: Tensor) -> Tensor:
        x = images.permute(0, 3, 1, 2).float() / 255
        return self.model((x - self.mean) / self.std)


def as_pixels(images: Tensor, about: Mapping[str, Any]) -> Tensor:
    """The uint8 pixels [b, height, width, 3] that prepared images come from."""
    mean, std = (torch.tensor(about[key]).view(1, -1, 1, 1) for key in ("mean", "std"))
    pixels = ((images * std + mean) * 255).round().clamp(0, 255).to(torch.uint8)
    return pixels.permute(0, 2, 3, 1).contiguous()


def about_model(
    model: nn.Module, dense: nn.Module, preprocessing: bool, size: int | None, images: Tensor
) -> dict[str, Any]:
    """What the file says of itself, in plain values."""
    library = library_of(dense)
    channels, height, width = images.shape[1:]
    data, cost = library.data_config(dense), profile(model, (height, width))
    return {
        "model": library.architecture(dense) or type(dense).__name__,
        "methods": methods_config(model) if isinstance(model, ReducedViT) else [],
        "output": "features" if library.gives_features(dense) else "logits",
        "gmacs": cost.gmacs,
        "dense_gmacs": cost.dense_gmacs,
        "tokens": cost.tokens,
        "patches": cost.patches,
        "params": cost.params,
        "classes": library.classes(dense),
        "input_size": [channels, height, width],
        "preprocessing": preprocessing,
        "batch_size": size or "any",
        **{key: _plain(data[key]) for key in ("mean", "std", "interpolation", "crop_pct", "crop_mode")},
        "label_names": library.label_names(dense),
        "vitrim": __version__,
    }


def _plain(value: Any) -> Any:
    return [float(item) for item in value] if isinstance(value, (tuple, list)) else value
