"""The floor that any method must beat: keep tokens at random, or an even grid of them; and EViT's pruning alone."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from ..core.evidence import Evidence
from ..core.reductions import Keep, Reduction
from ..core.schedule import Place, ceil_count
from ..core.seeds import image_seed, random_scores
from ..core.tokens import Tokens
from .base import Method, top
from .evit import EViT
from .parts.checks import check_seed


class TopK(EViT):
    """Keep the most attentive tokens, drop the rest: EViT without the fused token (EViT Table 1, no training).

    keep, at, score: as for EViT.
    """

    name = "topk"
    title = "keep the attentive tokens, drop the rest"

    def __init__(self, keep: Any = 0.7, at: Any = None, score: str = "cls"):
        super().__init__(keep, at, fuse=False, score=score)


class _Blind(Method):
    """Keeps ceil(keep * n) patch tokens at each place without looking at them."""

    def forward(self, tokens: Tokens, evidence: Evidence, place: Place) -> Reduction | None:
        k = ceil_count(place.keep, tokens.n)
        if k == tokens.n:
            return None
        scores = self.rank(tokens, place)
        return Keep(top(scores, k), scores=scores)

    def rank(self, tokens: Tokens, place: Place) -> Tensor:
        """Scores [b, n]; the largest stay."""
        raise NotImplementedError

    def count(self, place: Place, n: int) -> int:
        return ceil_count(place.keep, n)


class Random(_Blind):
    """Keep patch tokens at random, seeded by the image and `seed`: the same image keeps the same tokens in any batch.

    keep, at: as for EViT.
    """

    name = "random"
    title = "keep random tokens"

    def __init__(self, keep: Any = 0.7, at: Any = None, seed: int = 0):
        super().__init__(keep, at)
        self.seed = check_seed(seed)

    def start_note(self, images, scores):
        return image_seed(images)

    def rank(self, tokens, place):
        return random_scores(tokens.notes[self.number], tokens.n, place, self.seed)


class Grid(_Blind):
    """Keep evenly spaced patches: every image the same ones, each place a subset of the one before.

    Patches leave in the order of an ordered-dither matrix (Bayer 1973): what stays is spread evenly for any rate.
    keep, at: as for EViT.
    """

    name = "grid"
    title = "keep evenly spaced tokens"

    def __init__(self, keep: Any = 0.7, at: Any = None):
        super().__init__(keep, at)

    def rank(self, tokens, place):
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
