"""PruneMerge: drop what [CLS] reads least, merge what has a twin. vitrim's own; each of its parts is somebody's."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from jaxtyping import Int
from torch import Tensor

from ..backbones.base import Backbone
from ..core.evidence import Evidence
from ..core.joining import Join
from ..core.reductions import Keep, Reduction
from ..core.schedule import Place, round_count
from ..core.tokens import Tokens
from .base import top
from .diffrate import DiffRate, most_similar
from .parts.checks import check_flag, check_number
from .registry import register_method


@register_method
class PruneMerge(DiffRate):
    """Between attention and MLP of the chosen blocks, drop the patch tokens that [CLS] reads least; among the least
    read of those left, the ones that are most like another token join it. A merged token is the mean of its patches,
    as long as the longest of them, and attention counts it as that many keys.

    Source: of vitrim. Two lists of counts and the order of steps are DiffRate's (Chen et al., ICCV 2023); what is read
    is class attention times the norm of the value, as in ATS (Fayyaz et al., ECCV 2022); the best pairs of two sets,
    means weighted by size and proportional attention are ToMe's (Bolya et al., ICLR 2023); the length of a merged
    token is ToFu's (Kim et al., WACV 2024). What each is worth: docs/methods/prunemerge.md.

    Args:
        keep: share of the patch tokens that is left at each place, half of what leaves being dropped and half merged;
            one number, or one for each place (default: 0.9, unless `pruned` or `merged` is given)
        pruned: tokens to drop at each place; one number, or one for each place
        merged: tokens that join others at each place; one number, or one for each place
        at: blocks at which it acts, counted from 0 (default: with `keep` all but the first sixth, 2 to 11 of 12; with
            `pruned` or `merged` all)
        score: what makes a token worth keeping: "cls-values", class attention times the norm of the value; or one of
            EViT's scores
        candidates: who may join another: 0, the `merged` least read of those left, as in DiffRate; 1, their lower half,
            of which the `merged` most similar pairs are taken, as in ToMe; between them in proportion
        rescale: a merged token is as long as the longest of its members
        proportional: merged tokens weigh more in attention, by their size, as in ToMe

    One patch token always stays. Raises ValueError for options out of range and, when bound, for a model without [CLS]
    unless `score` does without.

    Example:
        >>> fast = vitrim.reduce(model, vitrim.PruneMerge(pruned=[0, 4, 6, 8], merged=[0, 6, 6, 10]))
        >>> vitrim.profile(fast).tokens
        [64, 54, 42, 24]
    """

    name = "prunemerge"
    title = "drop what [CLS] does not read, merge what has a twin"
    guided = True
    weighs = True

    def __init__(
        self,
        keep: Any = None,
        pruned: int | Sequence[int] | None = None,
        merged: int | Sequence[int] | None = None,
        at: Any = None,
        score: Any = "cls-values",
        candidates: float = 0.25,
        rescale: bool = True,
        proportional: bool = True,
    ):
        super().__init__(keep, pruned, merged, at, score, proportional)
        self.candidates = check_number("candidates", candidates, lambda share: 0 <= share <= 1, "a number from 0 to 1")
        self.rescale = check_flag("rescale", rescale)

    def forward(self, tokens: Tokens, evidence: Evidence, place: Place) -> Reduction:
        pruned, merged = self.plan(place, tokens.n)
        scores = self.scorer.scores(tokens, evidence, place, self.number)
        left = tokens.n - pruned
        order = top(scores, left)
        if not merged:
            return Keep(order, scores=scores)
        read = left - self._candidates(left, merged)
        lead, moved, into = self._pairs(tokens, order[:, :read], order[:, read:], merged)
        sizes, proportional, rescale = tokens.sizes, self.proportional, self.rescale
        return Join(lead, moved, into, sizes, proportional=proportional, rescale=rescale, scores=scores)

    def _pairs(
        self, tokens: Tokens, read: Int[Tensor, "b m"], candidates: Int[Tensor, "b a"], merged: int
    ) -> tuple[Int[Tensor, "b n"], Int[Tensor, "b r"], Int[Tensor, "b r"]]:
        """The `merged` candidates most like one of those read more: (who stays, who moves, which of those that stay
        each joins)."""
        similar, partner = most_similar(tokens.take(candidates), tokens.take(read))
        best = top(similar, candidates.shape[1])
        moving, alone = best[:, :merged], best[:, merged:]
        lead = torch.cat([read, candidates.gather(1, alone)], dim=1)
        return lead, candidates.gather(1, moving), partner.gather(1, moving)

    def _candidates(self, left: int, merged: int) -> int:
        """How many of the tokens left may join another: from those that must to half of all, at least one stays."""
        more = round_count(self.candidates, max(left // 2 - merged, 0))
        return merged + more

    def macs(self, place: Place, n: int, body: Backbone) -> int:
        pruned, merged = self.plan(place, n)
        left = n - pruned
        candidates = self._candidates(left, merged) if merged else 0
        return self.scorer.macs(place, n, body, weighs=False) + candidates * (left - candidates) * body.width
