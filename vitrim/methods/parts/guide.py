"""Scores from outside: another model's class attention guides the selection (EViT Table 14)."""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor, nn

from ...backbones import find_family
from ...backbones.layers import own_copy


class LastClassAttention(nn.Module):
    """A model's class attention as scores, to guide the selection of another (EViT, Table 14): images [b, 3, h, w] to
    the class attention of the model's last block [b, n], mean over heads, patch entries only (EViT Eq. 2).

    model: a supported timm model with a [CLS] token, such as DINO's; it must cut images into the same grid of patches
           as the model it guides. It stays as it is: a copy runs, densely, in eval mode, without gradient, with the
           weights that the model has now.
    Raises ValueError for a model that is not supported, has no [CLS], or cannot be copied.

    Example:
        >>> guide = vitrim.LastClassAttention(model)
        >>> guide(images).shape  # one score for each of the 64 patches
        torch.Size([2, 64])
        >>> fast = vitrim.reduce(model, vitrim.EViT(score=guide))
    """

    def __init__(self, model: nn.Module):
        super().__init__()
        self._family = find_family(model)
        if not self._family(model).class_tokens:
            raise ValueError(f"{type(model).__name__} has no [CLS] token: its class attention cannot guide")
        self.model = own_copy(model).requires_grad_(False)
        self.train()

    def train(self, mode: bool = True):
        return super().train(False)

    @torch.no_grad()
    def forward(self, images: Float[Tensor, "b 3 h w"]) -> Float[Tensor, "b n"]:
        body = self._family(self.model)
        tokens, last = body.begin(body.embed(images)), body.depth - 1
        for i in range(last):
            tokens = body.run_block(i, tokens)
        return body.probe(last, body.enter(last, tokens)).class_attention()
