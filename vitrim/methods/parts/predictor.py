"""DynamicViT's predictor: scores every token from itself and from the mean of all that are kept."""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor, nn


class Predictor(nn.Module):
    """LayerNorm, Linear C -> C, GELU; half the channels stay local, the other half is the mean over the kept tokens;
    then C -> C/2 -> C/4 -> 2 and a log-softmax (Rao et al., "DynamicViT", NeurIPS 2021, Eq. 2 to 5)."""

    def __init__(self, channels: int):
        super().__init__()
        self.local = nn.Sequential(nn.LayerNorm(channels), nn.Linear(channels, channels), nn.GELU())
        self.decide = nn.Sequential(
            nn.Linear(channels, channels // 2),
            nn.GELU(),
            nn.Linear(channels // 2, channels // 4),
            nn.GELU(),
            nn.Linear(channels // 4, 2),
        )

    def forward(self, x: Float[Tensor, "b n c"], mask: Float[Tensor, "b n"] | None = None) -> Float[Tensor, "b n 2"]:
        """Log-probabilities (keep, drop) of every token; `mask` says which tokens the mean runs over."""
        x = self.local(x)
        half = x.shape[-1] // 2
        near, far = x[..., :half], x[..., half:]
        weight = x.new_ones(x.shape[:2]) if mask is None else mask.to(x.dtype)
        mean = (far * weight.unsqueeze(-1)).sum(dim=1, keepdim=True) / weight.sum(dim=1).clamp(min=1)[:, None, None]
        return self.decide(torch.cat([near, mean.expand_as(far)], dim=-1)).float().log_softmax(dim=-1)

    @staticmethod
    def macs(channels: int, tokens: int) -> int:
        """Multiply-accumulates over `tokens` tokens."""
        half, quarter = channels // 2, channels // 4
        return tokens * (channels * channels + channels * half + half * quarter + quarter * 2)
