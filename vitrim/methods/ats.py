"""ATS: every image samples as many tokens as it needs (Fayyaz et al., "Adaptive Token Sampling for Efficient Vision
Transformers", ECCV 2022)."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Any

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from ..backbones.base import Backbone
from ..core.evidence import Evidence
from ..core.packing import pack
from ..core.recording import refuse_recording
from ..core.reductions import Reduction
from ..core.schedule import Place, ceil_count
from ..core.tokens import Tokens
from .base import Method
from .parts.scorer import class_row_macs
from .registry import register_method


@register_method
class ATS(Method):
    """Between attention and MLP of the chosen blocks, each image samples its own number of patch tokens, at most K.
    Every token has a significance: its class attention times the norm of its value, as a share of the sum over all
    patch tokens. K points, evenly spaced in (0, 1), are looked up in the cumulative sum of the significance; a token
    that is hit by one point or more stays, once, and the others are dropped. Where few tokens hold most of the
    significance, many points hit the same ones, and fewer stay. In later places the K points are looked up among those
    left.

    Source: Fayyaz et al., "Adaptive Token Sampling for Efficient Vision Transformers", ECCV 2022.

    Args:
        keep: share of the patch tokens that an image may keep at most at each place; one number, or one for each place.
            Also at 1 some are left out
        at: blocks at which it acts, counted from 0 (default: all but the first quarter, 3 to 11 of 12)

    A plan's cost is that of an image that keeps all K; `vitrim.image_macs` tells that of given images.
    Raises ValueError for options out of range and, when bound, for a model without [CLS] or one that cannot run ragged
    batches.

    Example:
        >>> fast = vitrim.reduce(model, vitrim.ATS(keep=0.5))
        >>> vitrim.profile(fast).tokens  # at most: each image keeps its own number
        [64, 32, 32, 32]
    """

    name = "ats"
    title = "sample tokens by significance, each image its own number"
    counts = "own"

    def __init__(self, keep: Any = 0.7, at: Any = None):
        super().__init__(keep, at)

    def bind(self, body: Backbone) -> None:
        super().bind(body)
        self.places = tuple(
            replace(place, patches=math.prod(body.grid_at(place.block, body.grid()))) for place in self.places
        )
        if not body.class_tokens:
            raise ValueError(f"ats needs a [CLS] token and {type(body.model).__name__} has none: try tome or dpcknn")
        try:
            body.check_ragged()
        except ValueError as reason:
            raise ValueError(f"ats keeps another number of tokens in every image: {reason}") from None

    def default_places(self, depth: int) -> tuple[int, ...]:
        return tuple(range(depth // 4, depth))

    def acts_on(self, place: Place, n: int) -> bool:
        return True

    def forward(self, tokens: Tokens, evidence: Evidence, place: Place) -> Reduction:
        refuse_recording("ats", "export another method, such as evit or topk")
        scores = significance(evidence)
        kept = sampled(scores, ceil_count(place.keep, place.whole))
        return pack(kept, tokens.prefix, tokens.layout, scores)

    def count(self, place: Place, n: int) -> int:
        return min(ceil_count(place.keep, place.whole), n)

    def macs(self, place: Place, n: int, body: Backbone, kept: Any = None) -> int:
        return class_row_macs(body, place, n)


def significance(evidence: Evidence) -> Float[Tensor, "b n"]:
    """Class attention times the norm of the token's value, normalised over the patch tokens of every head; the mean
    over heads. 0 behind the last token of a ragged image."""
    with torch.no_grad():
        weighed = evidence.class_rows().mean(dim=2) * evidence.value_norms()
        return (weighed / weighed.sum(dim=2, keepdim=True)).mean(dim=1)


def sampled(scores: Float[Tensor, "b n"], points: int) -> Bool[Tensor, "b n"]:
    """The tokens in whose share of the cumulative sum one of the points 1/2K, 3/2K, ..., (2K-1)/2K lies; the scores of
    an image sum to 1."""
    passed = (points * scores.cumsum(dim=1) + 0.5).floor()  # points up to here
    return passed.diff(dim=1, prepend=torch.zeros_like(passed[:, :1])) > 0
