"""The floor that any method must beat: keep tokens at random, or an even grid of them; and EViT's pruning alone."""

from __future__ import annotations

from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from ..backbones.base import Backbone
from ..core.evidence import Evidence
from ..core.reductions import Keep, Reduction
from ..core.schedule import Place, ceil_count
from ..core.seeds import image_seed, random_scores
from ..core.tokens import Tokens
from .base import Method, top
from .parts.checks import check_seed
from .parts.scorer import Scorer
from .registry import register_method


class _Ranking(Method):
    """Keeps the ceil(keep * n) patch tokens with the largest scores at each place."""

    def forward(self, tokens: Tokens, evidence: Evidence, place: Place) -> Reduction:
        scores = self.rank(tokens, evidence, place)
        return Keep(top(scores, ceil_count(place.keep, tokens.n)), scores=scores)

    def rank(self, tokens: Tokens, evidence: Evidence, place: Place) -> Float[Tensor, "b n"]:
        """Scores [b, n]; the largest stay."""
        raise NotImplementedError

    def count(self, place: Place, n: int) -> int:
        return ceil_count(place.keep, n)


@register_method
class TopK(_Ranking):
    """Keep the most attentive tokens, drop the rest: EViT without the fused token.

    Source: EViT, Table 1, no training.

    Args:
        keep: share of the patch tokens to keep at each place, such as 0.7; one number, or one for each place
        at: blocks at which it acts, counted from 0 (default: evenly, 3 6 9 of 12)
        score: as for EViT

    Raises ValueError for options out of range and, when bound, for a model without [CLS] that its score needs.

    Example:
        >>> fast = vitrim.reduce(model, vitrim.TopK(keep=0.5))
        >>> vitrim.profile(fast).tokens  # patch tokens in each of the 4 blocks, of 64
        [64, 32, 16, 8]
    """

    name = "topk"
    title = "keep the attentive tokens, drop the rest"
    guided = True
    scorer: Scorer

    def __init__(self, keep: Any = 0.7, at: Any = None, score: Any = "cls"):
        super().__init__(keep, at, scorer=Scorer(score))

    def rank(self, tokens, evidence, place):
        return self.scorer.scores(tokens, evidence, place, self.number)

    def macs(self, place: Place, n: int, body: Backbone) -> int:
        return self.scorer.macs(place, n, body, weighs=False)


@register_method
class Random(_Ranking):
    """Keep patch tokens at random, seeded by the image and `seed`: the same image keeps the same tokens in any batch.

    Args:
        keep: share of the patch tokens to keep at each place, such as 0.7; one number, or one for each place
        at: blocks at which it acts, counted from 0 (default: evenly, 3 6 9 of 12)
        seed: seed of the random choice

    Raises ValueError for options out of range.

    Example:
        >>> fast = vitrim.reduce(model, vitrim.Random(keep=0.5))
        >>> vitrim.profile(fast).tokens  # patch tokens in each of the 4 blocks, of 64
        [64, 32, 16, 8]
    """

    name = "random"
    title = "keep random tokens"

    def __init__(self, keep: Any = 0.7, at: Any = None, seed: int = 0):
        super().__init__(keep, at)
        self.seed = check_seed(seed)

    def start_note(self, images, scores):
        return image_seed(images)

    def rank(self, tokens, evidence, place):
        return random_scores(tokens.notes[self.number], tokens.n, place, self.seed)


@register_method
class Grid(_Ranking):
    """Keep evenly spaced patches: every image the same ones, each place a subset of the one before.

    Patches leave in the order of an ordered-dither matrix (Bayer 1973): what stays is spread evenly for any rate.

    Args:
        keep: share of the patch tokens to keep at each place, such as 0.7; one number, or one for each place
        at: blocks at which it acts, counted from 0 (default: evenly, 3 6 9 of 12)

    Raises ValueError for options out of range.

    Example:
        >>> fast = vitrim.reduce(model, vitrim.Grid(keep=0.5))
        >>> vitrim.profile(fast).tokens  # patch tokens in each of the 4 blocks, of 64
        [64, 32, 16, 8]
    """

    name = "grid"
    title = "keep evenly spaced tokens"

    def __init__(self, keep: Any = 0.7, at: Any = None):
        super().__init__(keep, at)

    def rank(self, tokens, evidence, place):
        order = torch.tensor(dither(*tokens.grid), device=tokens.x.device, dtype=torch.float32)
        return -order[tokens.origin()]


def dither(height: int, width: int) -> list[float]:
    """Threshold of every cell of a grid, row by row; the cells below any threshold are spread evenly."""
    bits = max(height - 1, width - 1, 1).bit_length()
    ranks = []
    for row in range(height):
        for column in range(width):
            rank = 0
            for bit in range(bits):  # reversed interleave of row ^ column and row
                rank = rank << 2 | ((row ^ column) >> bit & 1) << 1 | (row >> bit & 1)
            ranks.append(float(rank))
    return ranks
