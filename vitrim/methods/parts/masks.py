"""Decisions of masked training, in which all tokens run on and a mask says how much each one counts.

Shapes: b images, n patch tokens.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor


def drawn(
    decision: Float[Tensor, "b n 2"], mask: Float[Tensor, "b n"] | None = None, tau: float = 1.0
) -> Float[Tensor, "b n"]:
    """Keep (1) or not, drawn by straight-through Gumbel softmax from the log-probabilities of both; what `mask` has
    dropped stays dropped. An image that would keep nothing keeps its likeliest token, as at inference."""
    kept = F.gumbel_softmax(decision, tau=tau, hard=True)[..., 0]
    scores = (decision[..., 0] - decision[..., 1]).detach()
    if mask is not None:
        kept, scores = kept * mask, scores.masked_fill(mask == 0, float("-inf"))
    nothing = kept.detach().sum(dim=1, keepdim=True) < 0.5
    best = F.one_hot(scores.argmax(dim=1), scores.shape[1])
    return torch.where(nothing, kept + best.to(kept.dtype), kept)


def best_mask(
    scores: Float[Tensor, "b n"], k: int | Int[Tensor, " b"], mask: Float[Tensor, "b n"] | None
) -> Float[Tensor, "b n"]:
    """1 for the k largest scores among the tokens that `mask` has kept so far (all of them, where they are fewer), 0
    for all others. k: one number, or one for each image"""
    if mask is not None:
        scores = scores.masked_fill(mask == 0, float("-inf"))
    n = scores.shape[1]
    chosen = torch.arange(n, device=scores.device) < torch.as_tensor(k, device=scores.device).view(-1, 1)
    order = torch.topk(scores, n, dim=1).indices
    best = torch.zeros_like(scores).scatter(1, order, chosen.to(scores.dtype).expand_as(scores))
    return best if mask is None else best * mask
