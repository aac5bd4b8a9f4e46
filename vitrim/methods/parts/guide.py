"""Scores from outside: another model's class attention guides the selection (EViT Table 14)."""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor, nn

from ...backbones import find_family


class LastClassAttention(nn.Module):
    """Images to the class attention of a model's last block, mean over heads, patch entries only [b, n].

    model: a supported timm model with a [CLS] token, such as DINO's; it must cut images into the same grid of patches
           as the model it guides. It runs densely, in eval mode, without gradient.
    Raises ValueError for a model that is not supported or has no [CLS].
    """

    def __init__(self, model: nn.Module):
        super().__init__()
        self._family = find_family(model)
        if not self._family(model).voters:
            raise ValueError(f"{type(model).__name__} has no [CLS] token: its class attention cannot guide")
        self.model = model.eval().requires_grad_(False)

    def train(self, mode: bool = True):
        return super().train(False)

    @torch.no_grad()
    def forward(self, images: Float[Tensor, "b 3 h w"]) -> Float[Tensor, "b n"]:
        body = self._family(self.model)
        tokens = body.embed(images)
        for i in range(body.depth - 1):
            tokens, _ = body.attend(i, tokens)
            tokens = body.mlp(i, tokens)
        return body.probe(body.depth - 1, tokens).class_attention()
