"""Token labels and mix-token: what an LV-ViT says of a batch, and how its patches are mixed in training."""

from __future__ import annotations

from typing import NamedTuple

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from ...core.recording import length

AUX_WEIGHT = 0.5  # of the largest token logits in the prediction


class TokenLogits(NamedTuple):
    """What both heads say, and all that a token-label loss needs; an LV-ViT returns it in training mode while
    `token_labels` is set.

    logits:       [b, k] of the class token
    token_logits: [b, m, k] of the m patch tokens left
    mixed:        [n0] True for patches that come from the image's partner, the batch in reverse order; None: none do
    owners:       [b, n0] number of the token that stands for each patch, -1: pruned; None: every patch is its own token
    mask:         [b, m] soft keep mask of masked training; None: all count

    Example:
        >>> said = TokenLogits(torch.tensor([[1.0, 0.0]]), torch.tensor([[[0.0, 2.0], [4.0, 0.0]]]))
        >>> said.prediction().tolist()
        [[3.0, 1.0]]
    """

    logits: Tensor
    token_logits: Tensor
    mixed: Tensor | None = None
    owners: Tensor | None = None
    mask: Tensor | None = None

    def prediction(self) -> Float[Tensor, "b k"]:
        """Class logits + 0.5 * the largest over the patch tokens that the mask has kept; of an image that has kept
        none, the class token's alone."""
        if length(self.token_logits, 1) == 0:
            return self.logits
        if self.mask is None:
            return self.logits + AUX_WEIGHT * self.token_logits.amax(dim=1)
        gone = (self.mask == 0).unsqueeze(-1)
        best = self.token_logits.masked_fill(gone, float("-inf")).amax(dim=1)
        return self.logits + AUX_WEIGHT * best.masked_fill(gone.all(dim=1), 0.0)

    def class_targets(self, labels: Float[Tensor, "b k"]) -> Float[Tensor, "b k"]:
        """Labels of the images, mixed in proportion to the patches (mix-token)."""
        if self.mixed is None:
            return labels
        share = self.mixed.to(labels.dtype).mean()
        return (1 - share) * labels + share * labels.flip(0)

    def token_targets(self, labels: Float[Tensor, "b n0 k"]) -> Float[Tensor, "b m k"]:
        """Labels of the patches, mixed as the patches were, as targets of the tokens left: the mean over the patches
        that a token stands for."""
        if self.mixed is not None:
            labels = torch.where(self.mixed[None, :, None], labels.flip(0), labels)
        if self.owners is None:
            return labels
        tokens = torch.arange(self.token_logits.shape[1], device=labels.device)
        stands = (self.owners.unsqueeze(1) == tokens[None, :, None]).to(labels.dtype)
        return torch.bmm(stands, labels) / stands.sum(dim=2, keepdim=True).clamp(min=1)


def random_box(grid: tuple[int, int], device: torch.device) -> Bool[Tensor, " n0"]:
    """A box on the patch grid whose share of the image is uniform in [0, 1] (beta(1, 1)), at a uniform centre, cut off
    at the border; one for the whole batch (mix-token)."""
    share, down, right = torch.rand(3, device=device).unbind()
    inside = []
    for side, centre in zip(grid, (down, right), strict=True):
        middle, half = (centre * side).floor(), (share.sqrt() * side).floor() / 2
        at = torch.arange(side, device=device)
        inside.append((at >= (middle - half).floor()) & (at < (middle + half).floor()))
    return (inside[0].unsqueeze(1) & inside[1]).flatten()
