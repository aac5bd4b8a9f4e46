"""EViT: keep the attentive tokens, fuse the rest (Liang et al., "Not All Patches are What You Need", ICLR 2022)."""

from __future__ import annotations

from typing import Any

from jaxtyping import Float
from torch import Tensor

from ..backbones.base import Backbone
from ..core.evidence import Evidence
from ..core.reductions import Fuse, Keep, Reduction
from ..core.schedule import Place, ceil_count
from ..core.seeds import image_seed, random_scores
from ..core.tokens import Tokens
from .base import Method, class_row_macs, top
from .parts.checks import check_flag, check_score, check_seed

SCORES = ("cls", "tokens", "random", "-cls")


class EViT(Method):
    """Between attention and MLP of the chosen blocks keep the ceil(keep * n) most attentive patch tokens, in the order
    of their class attention, and append the sum of the others weighted by it (paper, section 3.3 and Algorithm 1).

    keep:  keep rate at each place, one number or one for each place (Table 13)
    at:    blocks, counted from 0; default the even cut (3, 6, 9 of 12)
    fuse:  append the fused token; False: inattentive tokens are dropped (Table 2, upper half)
    score: "cls": class attention (Eq. 2); "tokens": mean of all rows of the map (Eq. 4), for models without [CLS];
           "random", "-cls": the controls of Table 15, random scores seeded per image, and the least attentive first;
           or a callable, images to scores [b, n] (Table 14): `vitrim.LastClassAttention(dino)`
    seed:  for score="random"

    Scores given with the call, `fast(images, scores=...)`, take the place of `score`.

    Raises ValueError for options out of range and, when bound, for a model without [CLS] unless score="tokens".
    """

    name = "evit"
    title = "keep the attentive tokens, fuse the rest"
    guided = True

    def __init__(self, keep: Any = 0.7, at: Any = None, fuse: bool = True, score: Any = "cls", seed: int = 0):
        super().__init__(keep, at)
        score = check_score(score, SCORES)
        self.guide = score if callable(score) else None
        self.fuse, self.seed = check_flag("fuse", fuse), check_seed(seed)
        # A guide may be a module: it is registered as `guide`, not a second time as `score`.
        object.__setattr__(self, "score", score)

    def bind(self, body: Backbone) -> None:
        super().bind(body)
        if not body.voters and self.score in ("cls", "-cls"):
            raise ValueError(
                f"{self.name} with score={self.score!r} needs a [CLS] token and {type(body.model).__name__} has none "
                '(its prefix tokens, if any, are registers): use score="tokens"'
            )
        self.class_weights = bool(body.voters)

    def start_note(self, images: Tensor, scores: Tensor | None) -> Tensor | None:
        """Scores from outside [b, n], or what random scores are drawn from [b]."""
        if scores is not None:
            return scores
        if self.guide is not None:
            return self.guide(images)
        return image_seed(images) if self.score == "random" else None

    def _given(self, tokens: Tokens) -> Float[Tensor, "b n"] | None:
        """Scores from outside, of the tokens now present."""
        note = tokens.notes.get(self.number)
        return None if note is None or note.dim() == 1 else note

    def forward(self, tokens: Tokens, evidence: Evidence, place: Place) -> Reduction | None:
        k = ceil_count(place.keep, tokens.n)
        if k == tokens.n:
            return None
        scores = self._scores(tokens, evidence, place)
        kept = top(scores, k)
        if not self.fuse:
            return Keep(kept, scores=scores)
        weights = self._weights(scores, tokens, evidence)
        return Fuse(kept, weights.scatter(1, kept, 0.0), scores=scores)

    def _scores(self, tokens: Tokens, evidence: Evidence, place: Place) -> Float[Tensor, "b n"]:
        given = self._given(tokens)
        if given is not None:
            return given
        if self.score == "tokens":
            return evidence.token_attention()
        if self.score == "random":
            return random_scores(tokens.notes[self.number], tokens.n, place, self.seed)
        attention = evidence.class_attention()
        return -attention if self.score == "-cls" else attention

    def _weights(self, scores: Float[Tensor, "b n"], tokens: Tokens, evidence: Evidence) -> Float[Tensor, "b n"]:
        """Fusion weighs by the class attention where there is one, else by the score used."""
        if not self.class_weights:
            return scores
        own = {"cls": scores, "-cls": -scores} if self._given(tokens) is None else {}
        return own[self.score] if self.score in own else evidence.class_attention()

    def count(self, place: Place, n: int) -> int:
        k = ceil_count(place.keep, n)
        return n if k == n else k + self.fuse

    def macs(self, place: Place, n: int, body: Backbone) -> int:
        if ceil_count(place.keep, n) == n:
            return 0
        return self.score_macs(place, n, body) + (n * body.width if self.fuse else 0)

    def score_macs(self, place: Place, n: int, body: Backbone) -> int:
        """Multiply-accumulates of the scores, and of the weights that fusion takes."""
        heads, channels = body.heads(place.block)
        total = n + body.prefix
        full_map = heads * channels * total * total if self.score == "tokens" else 0
        needs_row = self.score in ("cls", "-cls") or (self.fuse and self.class_weights)
        row = class_row_macs(body, place, n) if needs_row else 0
        return full_map + row
