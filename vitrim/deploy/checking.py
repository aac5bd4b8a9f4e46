"""Whether a file answers as the model does."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

TOLERANCE = 1e-3  # of the largest logit of an image
STRAYS = 0.1  # share of images whose decisions may fall the other way, between scores that are equal up to rounding


@torch.no_grad()
def compare(run: Callable[[Tensor], Tensor], model: nn.Module, images: Tensor, size: int | None) -> dict[str, Any]:
    """Largest difference within the tolerance, images beyond it, share with the same class. size: of the file's batches

    Raises ValueError where more images are beyond it than rounding explains.
    """
    found, wanted = logits_of(run, images, size), logits_of(model, images, size)
    off = (found - wanted).abs().amax(dim=1)
    strays = ~(off <= TOLERANCE * wanted.abs().amax(dim=1).clamp(min=1e-6))  # NaN is one, too
    if strays.float().mean() > STRAYS:
        raise ValueError(
            f"the exported file disagrees with the model: by up to {off.max():.3g} in a logit, on {int(strays.sum())} "
            f"of {len(images)} images; nothing was written"
        )
    same, close = found.argmax(dim=1) == wanted.argmax(dim=1), off[~strays]
    largest = float(close.max()) if len(close) else 0.0
    return {"difference": largest, "strays": int(strays.sum()), "agreement": float(same.float().mean())}


@torch.no_grad()
def logits_of(run: Callable[[Tensor], Tensor], images: Tensor, size: int | None) -> Tensor:
    """Logits [n, k] of images that are given in batches of the size that a file takes (None: any)."""
    return torch.cat([run(part) for part in parts(images, size)])[: len(images)].flatten(1).float()


def parts(images: Tensor, size: int | None) -> list[Tensor]:
    """Batches of the size that the file takes; of any size, one image alone and then eight at a time."""
    if size is None:
        return [images[:1], *images[1:].split(8)] if len(images) > 1 else [images]
    return [filled(part, size) for part in images.split(size)]


def filled(images: Tensor, size: int) -> Tensor:
    """The first `size` images, repeated where there are fewer."""
    return images.repeat(-(-size // len(images)), *[1] * (images.dim() - 1))[:size].contiguous()
