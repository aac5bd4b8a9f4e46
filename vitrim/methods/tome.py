"""ToMe: merge the most similar tokens, a few in every block (Bolya et al., "Token Merging: Your ViT But Faster",
ICLR 2023)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor

from ..backbones.base import Backbone
from ..core.evidence import Evidence
from ..core.joining import Join
from ..core.precision import without_autocast
from ..core.recording import length
from ..core.reductions import Reduction
from ..core.schedule import Place, rate_at
from ..core.tokens import Tokens
from .base import Method
from .parts.checks import check_counts, check_flag
from .parts.large import image_by_image, too_large
from .registry import register_method


@register_method
class ToMe(Method):
    """Between attention and MLP of the chosen blocks, merge the most similar pairs of patch tokens, found by bipartite
    soft matching on the keys. A merged token is the mean of its patches, and attention counts it as that many keys.

    Source: Bolya et al., "Token Merging: Your ViT But Faster", ICLR 2023, section 3 and Eq. 1.

    Args:
        r: tokens to merge at each place; one number, or one for each place; at most half of those present
        at: blocks at which it acts, counted from 0 (default: all)
        proportional: merged tokens weigh more in attention, by their size (Eq. 1)

    Raises ValueError for options out of range.

    Example:
        >>> fast = vitrim.reduce(model, vitrim.ToMe(r=8))
        >>> vitrim.profile(fast).tokens  # 8 patch tokens fewer in each of the 4 blocks
        [56, 48, 40, 32]
    """

    name = "tome"
    title = "merge similar tokens"
    dial = "r"
    weighs = True

    def __init__(self, r: int | Sequence[int] = 13, at: Any = None, proportional: bool = True):
        super().__init__(at=at)
        if r is None:
            raise ValueError("r=None: give a whole number from 0, or one for each place")
        self.r, self.proportional = check_counts("r", r, 0), check_flag("proportional", proportional)

    def bind(self, body: Backbone) -> None:
        super().bind(body)
        check_counts("r", self.r, 0, len(self.places))

    def default_places(self, depth: int) -> tuple[int, ...]:
        return tuple(range(depth))

    def forward(self, tokens: Tokens, evidence: Evidence, place: Place) -> Reduction:
        r = self._merged(place, tokens.n)
        stay, moved, into = bipartite_soft_matching(mean_keys(evidence), r, tokens.prefix % 2)
        # By keyword: the compiler of torch 2.9 loses a fifth argument of a frozen dataclass.
        return Join(stay, moved, into, tokens.sizes, proportional=self.proportional)

    def _merged(self, place: Place, n: int) -> int:
        return min(rate_at(self.r, place.index), n // 2)

    def count(self, place: Place, n: int) -> int:
        return n - self._merged(place, n)

    def macs(self, place: Place, n: int, body: Backbone) -> int:
        return (n // 2) * (n - n // 2) * body.heads(place.block)[1]

    @classmethod
    def dial_values(cls, body: Backbone) -> tuple[int, ...]:
        height, width = body.grid()
        return tuple(range(height * width // 2, -1, -1))


def mean_keys(evidence: Evidence) -> Float[Tensor, "b n d"]:
    """The patch tokens' keys, mean over heads: what ToMe compares tokens by (section 3, "Token Similarity")."""
    return evidence.keys()[:, :, evidence.prefix :].detach().float().mean(dim=1)


def bipartite_soft_matching(
    features: Float[Tensor, "b n d"], r: int, first: int = 0
) -> tuple[Int[Tensor, "b n-r"], Int[Tensor, "b r"], Int[Tensor, "b r"]]:
    """The r most similar pairs between two alternating sets of tokens: (tokens that stay, tokens that move, which of
    the staying ones each of those joins).

    Set A are the tokens first, first + 2, ...; B the others. Each token of A proposes its most similar one of B by
    cosine; the r best proposals hold. Several tokens of A may move to the same one of B, none of B moves. What is left
    of set A stands first, then B, both in order (the order of the listing in the paper's appendix).
    """
    best, partner = most_similar(features, first)
    order = best.argsort(dim=1, descending=True)
    moving, left = order[:, :r], order[:, r:].sort(dim=1).values
    b, n = features.shape[0], length(features, 1)
    target_set = torch.arange(1 - first, n, 2, device=features.device).expand(b, -1)
    stay = torch.cat([2 * left + first, target_set], dim=1)
    return stay, 2 * moving + first, partner.gather(1, moving) + length(left, 1)


def most_similar(features: Float[Tensor, "b n d"], first: int) -> tuple[Float[Tensor, "b a"], Int[Tensor, "b a"]]:
    """For every token of set A the cosine to the most similar one of set B, and that one's number in B."""
    if too_large(features):
        return image_by_image(features, lambda image: most_similar(image, first))
    with without_autocast(features.device):
        unit = F.normalize(features, dim=-1)
        similar = torch.bmm(unit[:, first::2], unit[:, 1 - first :: 2].transpose(1, 2))
    return tuple(similar.max(dim=2))
