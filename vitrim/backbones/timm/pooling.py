"""Pooling of tokens that weigh unequally: merged ones by size, masked ones not at all."""

from __future__ import annotations

from typing import Any

import torch
from timm.layers import AttentionPoolLatent
from torch import Tensor
from torch.func import functional_call

from ...core.tokens import Tokens


def weighted_pool(model: Any, tokens: Tokens, with_prefix: bool) -> Tensor:
    """[b, c] from the tokens [b, p+n, c], as the model itself would pool equal ones.

    with_prefix: pooling runs over the prefix tokens too
    """
    x, weight, skipped = tokens.x, tokens.weight, 0 if with_prefix else tokens.prefix
    x, weight = x[:, skipped:], weight[:, skipped:]
    if model.attn_pool is not None:
        plain = tokens.size is None and tokens.mask is None
        mask = None if plain else weight.clamp(min=1e-6).log()[:, None, None].to(x.dtype)
        return _latent_pool(model.attn_pool, x, mask)
    weight = weight.unsqueeze(-1).to(x.dtype)
    mean = (weight * x).sum(dim=1) / weight.sum(dim=1)
    if model.global_pool == "avg":
        return mean
    return 0.5 * (without_masked(tokens)[:, skipped:].amax(dim=1) + mean)


def without_masked(tokens: Tokens) -> Tensor:
    """Features with the masked tokens at -infinity, for maxima."""
    gone = tokens.weight == 0
    return tokens.x.masked_fill(gone.unsqueeze(-1), float("-inf"))


def _latent_pool(pool: AttentionPoolLatent, x: Tensor, mask: Tensor | None) -> Tensor:
    """SigLIP's attention pooling. timm gives every image the latents as a view, and an exported graph would be for as
    many images as its example had: there the images get copies."""
    if not torch.compiler.is_exporting():
        return pool(x, attn_mask=mask)
    latent = pool.latent.expand(x.shape[0], -1, -1).clone(memory_format=torch.contiguous_format)
    return functional_call(pool, {"latent": latent}, (x, mask))
