"""DynamicViT: a learned predictor prunes tokens stage by stage (Rao et al., "DynamicViT: Efficient Vision Transformers
with Dynamic Token Sparsification", NeurIPS 2021)."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from torch import nn

from ..backbones.base import Backbone
from ..core.evidence import Evidence
from ..core.masking import Mask
from ..core.reductions import Keep, Reduction
from ..core.schedule import Place, alone, floor_count, shares
from ..core.tokens import Tokens
from .base import Method, top
from .parts.masks import best_mask, drawn
from .parts.predictor import Predictor
from .registry import register_method


@register_method
class DynamicViT(Method):
    """Before the chosen blocks a learned predictor scores the patch tokens that are left. Those with the best scores
    stay; the others are dropped.

    Source: Rao et al., "DynamicViT", NeurIPS 2021, sections 3.2 and 3.4: after the s-th place floor(N * keep^s) of N
    tokens stay.

    Args:
        keep: share of all patch tokens that is left at each place, none above the one before; one number, 0.7, is
            short for 0.7, 0.7^2, 0.7^3
        at: blocks at which it acts, counted from 0 (default: evenly, 3 6 9 of 12)

    In train mode all tokens run, masked: at every place decisions are drawn by straight-through Gumbel softmax, and
    they multiply from place to place (section 3.3). `forward(images, losses=True)` hands out the mask of every place,
    for the ratio loss. Outside training, a place that would keep every token does nothing.

    Raises ValueError for options out of range.

    Example:
        >>> fast = vitrim.reduce(model, vitrim.DynamicViT(keep=0.5))
        >>> vitrim.profile(fast).tokens  # patch tokens in each of the 4 blocks, of 64
        [64, 32, 16, 8]
    """

    name = "dynamicvit"
    title = "prune by a learned predictor"
    acts = "before"
    trains_masked = True

    def __init__(self, keep: Any = 0.7, at: Any = None):
        super().__init__(keep, at)

    def bind(self, body: Backbone) -> None:
        super().bind(body)
        height, width = body.grid()
        kept = shares(alone(self.keep), len(self.places))
        if kept != sorted(kept, reverse=True):
            raise ValueError(f"keep={self.keep}: a share of N above the one before it, and pruned tokens do not return")
        self.places = tuple(
            replace(place, keep=share, patches=height * width) for place, share in zip(self.places, kept, strict=True)
        )

    def build(self, body: Backbone) -> None:
        self.predictors = nn.ModuleList(Predictor(body.width) for _ in self.places)

    def forward(self, tokens: Tokens, evidence: Evidence, place: Place) -> Reduction:
        k = self.count(place, tokens.n)
        decision = self.predictors[place.index](tokens.patches, tokens.mask)
        scores = decision[..., 0] - decision[..., 1]
        if not self.masked:
            return Keep(top(scores, k), scores=scores)
        return Mask(drawn(decision, tokens.mask) if self.training else best_mask(scores, k, tokens.mask), scores=scores)

    def count(self, place: Place, n: int) -> int:
        return min(max(floor_count(place.keep, place.whole), 1), n)

    def macs(self, place: Place, n: int, body: Backbone) -> int:
        return Predictor.macs(body.width, n)
