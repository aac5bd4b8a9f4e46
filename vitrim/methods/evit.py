"""EViT: keep the attentive tokens, fuse the rest (Liang et al., "Not All Patches are What You Need", ICLR 2022)."""

from __future__ import annotations

from typing import Any

from ..backbones.base import Backbone
from ..core.evidence import Evidence
from ..core.reductions import Fuse, Keep, Reduction
from ..core.schedule import Place, ceil_count
from ..core.tokens import Tokens
from .base import Method, top
from .parts.checks import check_flag
from .parts.scorer import Scorer
from .registry import register_method


@register_method
class EViT(Method):
    """Between attention and MLP of the chosen blocks, keep the patch tokens that get the most class attention, and add
    one fused token: the sum of the others, each weighted by its class attention.

    Source: Liang et al., "Not All Patches are What You Need", ICLR 2022, section 3.3 and Algorithm 1: ceil(keep * n) of
    n tokens stay, in the order of their scores (Eq. 2).

    Args:
        keep: share of the patch tokens to keep at each place, such as 0.7; one number, or one for each place (Table 13)
        at: blocks at which it acts, counted from 0 (default: evenly, 3 6 9 of 12)
        fuse: add one token that is the weighted sum of those left out; off: they are dropped (Table 2)
        score: what makes a token worth keeping: "cls", the attention that [CLS] pays to it (Eq. 2); "tokens", the
            attention of all tokens, for models without [CLS] (Eq. 4); "shift" and "shift-mlp", how far it has moved
            in the block before, or in that block's MLP, for such models, too; "random" and "-cls", controls (Table 15).
            In Python also a function from images to scores [b, n], such as `vitrim.LastClassAttention(dino)` (Table 14)
        seed: seed of score "random"

    Scores given with the call, `fast(images, scores=...)`, take the place of `score`.

    Raises ValueError for options out of range and, when bound, for a model without [CLS] that its score needs.

    Example:
        >>> fast = vitrim.reduce(model, vitrim.EViT(keep=0.5))
        >>> vitrim.profile(fast).tokens  # patch tokens in each of the 4 blocks, of 64
        [64, 33, 18, 10]
    """

    name = "evit"
    title = "keep the attentive tokens, fuse the rest"
    guided = True
    scorer: Scorer  # for the type checker: in the base it may be None, here the constructor always gives one

    def __init__(self, keep: Any = 0.7, at: Any = None, fuse: bool = True, score: Any = "cls", seed: int = 0):
        super().__init__(keep, at, scorer=Scorer(score, seed))
        self.fuse, self.seed = check_flag("fuse", fuse), self.scorer.seed

    def forward(self, tokens: Tokens, evidence: Evidence, place: Place) -> Reduction:
        # `number` is set when the stack is bound to a model: scores from outside lie in `tokens.notes` under it.
        scores = self.scorer.scores(tokens, evidence, place, self.number)
        kept = top(scores, ceil_count(place.keep, tokens.n))
        if not self.fuse:
            return Keep(kept, scores=scores)
        weights = self.scorer.weights(scores, tokens, evidence, self.number)
        return Fuse(kept, weights.scatter(1, kept, 0.0), scores=scores)

    def acts_on(self, place: Place, n: int) -> bool:
        # The base asks whether `count` differs from n: here `count` asks back, and n - 1 kept tokens and the fused one
        # are n again, although something happens.
        return ceil_count(place.keep, n) < n

    def count(self, place: Place, n: int) -> int:
        return ceil_count(place.keep, n) + (self.fuse and self.acts_on(place, n))

    def macs(self, place: Place, n: int, body: Backbone) -> int:
        return self.scorer.macs(place, n, body, weighs=self.fuse) + self.apply_macs(place, n, body)

    def apply_macs(self, place: Place, n: int, body: Backbone) -> int:
        return n * body.width if self.fuse else 0
