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
    """Between attention and MLP of the chosen blocks, keep the ceil(keep * n) of n patch tokens that get the most class
    attention (Eq. 2), in its order, and append one fused token: the sum of the others, each weighted by its class
    attention (Liang et al., ICLR 2022, section 3.3 and Algorithm 1).

    Args:
        keep: keep rate at each place, in (0, 1]; one number or one for each place (Table 13)
        at: blocks, counted from 0; default the even cut (3, 6, 9 of 12)
        fuse: append the fused token; False: inattentive tokens are dropped (Table 2, upper half)
        score: "cls": class attention (Eq. 2); "tokens": mean of all rows of the map (Eq. 4), for models without [CLS];
            "random", "-cls": the controls of Table 15, random scores seeded per image, and the least attentive first;
            or a callable, images to scores [b, n] (Table 14): `vitrim.LastClassAttention(dino)`
        seed: for score="random"

    Scores given with the call, `fast(images, scores=...)`, take the place of `score`.

    Raises ValueError for options out of range and, when bound, for a model without [CLS] unless score="tokens".

    Example:
        >>> fast = vitrim.reduce(model, vitrim.EViT(keep=0.5))
        >>> vitrim.profile(fast).tokens  # patch tokens in each of the 4 blocks, of 64
        [64, 33, 18, 10]
    """

    name = "evit"
    title = "keep the attentive tokens, fuse the rest"
    guided = True
    scorer: Scorer

    def __init__(self, keep: Any = 0.7, at: Any = None, fuse: bool = True, score: Any = "cls", seed: int = 0):
        super().__init__(keep, at, scorer=Scorer(score, seed))
        self.fuse, self.seed = check_flag("fuse", fuse), self.scorer.seed

    def forward(self, tokens: Tokens, evidence: Evidence, place: Place) -> Reduction:
        scores = self.scorer.scores(tokens, evidence, place, self.number)
        kept = top(scores, ceil_count(place.keep, tokens.n))
        if not self.fuse:
            return Keep(kept, scores=scores)
        weights = self.scorer.weights(scores, tokens, evidence, self.number)
        return Fuse(kept, weights.scatter(1, kept, 0.0), scores=scores)

    def acts_on(self, place: Place, n: int) -> bool:
        return ceil_count(place.keep, n) < n

    def count(self, place: Place, n: int) -> int:
        return ceil_count(place.keep, n) + (self.fuse and self.acts_on(place, n))

    def macs(self, place: Place, n: int, body: Backbone) -> int:
        return self.scorer.macs(place, n, body, weighs=self.fuse) + (n * body.width if self.fuse else 0)
