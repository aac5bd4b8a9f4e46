"""Random scores that depend on the image alone: the same image keeps the same tokens, whatever batch it stands in."""

from __future__ import annotations

import torch
from jaxtyping import Float, Int
from torch import Tensor

from .recording import image_size
from .schedule import Place

PRIME = 2147483647  # 2^31 - 1


def image_seed(images: Float[Tensor, "b c h w"]) -> Int[Tensor, " b"]:
    """One integer for each image, from its pixels: exact integer sums, so that the batch does not matter."""
    height, width = image_size(images)
    channels = images.detach().flatten(2).unbind(1)
    sums = [_weighted_sum(channel, 1 + j * height * width) for j, channel in enumerate(channels)]
    return torch.stack(sums).sum(dim=0).remainder(PRIME)


def _weighted_sum(pixels: Float[Tensor, "b p"], first: int) -> Int[Tensor, " b"]:
    """One channel's share. Channel by channel: integer copies of whole images would be the peak of memory."""
    weights = torch.arange(first, first + pixels.shape[1], device=pixels.device) % 8191 + 1
    return (pixels.float() * 4096).round_().to(torch.int64).mul_(weights).sum(dim=1)


def random_scores(image_seeds: Int[Tensor, " b"], n: int, place: Place, seed: int) -> Float[Tensor, "b n"]:
    """Uniform scores in [0, 1) for n patch tokens, from (image, place, seed, number of the token)."""
    number = torch.arange(1, n + 1, device=image_seeds.device)
    state = image_seeds[:, None] + number * 2654435 + place.block * 97003 + (seed % PRIME) * 7919
    for multiplier in (1103515245, 48271, 69621):  # a few rounds of multiplicative congruence mix the bits
        state = state.remainder(PRIME)
        state = (state * multiplier + 12345).remainder(PRIME)
        state = state + state // 32768
    return state.remainder(1 << 24).float() / (1 << 24)
