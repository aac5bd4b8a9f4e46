"""What patch tokens are chosen by: EViT's scores, which TopK and BAT share."""

from __future__ import annotations

from typing import Any

from jaxtyping import Float
from torch import Tensor

from ...backbones.base import Backbone
from ...common.errors import UnfitModel
from ...core.evidence import Evidence
from ...core.schedule import Place
from ...core.seeds import image_seed, random_scores
from ...core.tokens import Tokens
from .checks import check_score, check_seed

SCORES = ("cls", "cls-values", "tokens", "random", "-cls")
CLASS_SCORES = ("cls", "cls-values", "-cls")


class Scorer:
    """Scores of the patch tokens at a place; the largest are kept.

    score: "cls": class attention (EViT Eq. 2); "cls-values": the same of each head times the norm of the head's value,
           which says how much of a token [CLS] receives (ATS); "tokens": mean of all rows of the map (Eq. 4), for
           models without [CLS]; "random", "-cls": random scores seeded per image, and the least attentive first (Table
           15); or a callable, images to scores [b, n] (Table 14)
    seed:  for score="random"
    Raises ValueError for any other score or seed.
    """

    def __init__(self, score: Any, seed: int = 0):
        self.score, self.seed = check_score(score, SCORES), check_seed(seed)
        self.has_class = False

    @property
    def guide(self) -> Any:
        """What makes scores from images; None: nothing does."""
        return self.score if callable(self.score) else None

    def bind(self, body: Backbone, name: str) -> None:
        """Raises ValueError where the method of that name needs a [CLS] token and the model has none."""
        if not body.class_tokens and self.score in CLASS_SCORES:
            raise UnfitModel(
                f"{name} with ",
                {"score": self.score},
                f" needs a [CLS] token and {type(body.model).__name__} has none "
                "(its prefix tokens, if any, are registers): use ",
                {"score": "tokens"},
            )
        self.has_class = bool(body.class_tokens)

    def start_note(self, images: Tensor, scores: Tensor | None) -> Tensor | None:
        """Scores from outside [b, n], or what random scores are drawn from [b]."""
        if scores is not None:
            return scores
        if self.guide is not None:
            return self.guide(images)
        return image_seed(images) if self.score == "random" else None

    def scores(self, tokens: Tokens, evidence: Evidence, place: Place, number: int) -> Float[Tensor, "b n"]:
        """Scores from outside go first. number: of the method in its stack"""
        given = self._given(tokens, number)
        if given is not None:
            return given
        if self.score == "tokens":
            return evidence.token_attention()
        if self.score == "random":
            return random_scores(tokens.notes[number], tokens.n, place, self.seed)
        if self.score == "cls-values":
            rows = evidence.class_rows() * evidence.value_norms().detach().unsqueeze(2)
            return rows.mean(dim=(1, 2))
        attention = evidence.class_attention()
        return -attention if self.score == "-cls" else attention

    def weights(
        self, scores: Float[Tensor, "b n"], tokens: Tokens, evidence: Evidence, number: int
    ) -> Float[Tensor, "b n"]:
        """What a token weighs in a fused or merged one: the class attention where there is one, else its score."""
        if not self.has_class:
            return scores
        by_name = {"cls": scores, "-cls": -scores} if self._given(tokens, number) is None else {}
        return by_name[self.score] if self.score in by_name else evidence.class_attention()

    def _given(self, tokens: Tokens, number: int) -> Float[Tensor, "b n"] | None:
        """Scores from outside, of the tokens now present."""
        note = tokens.notes.get(number)
        return None if note is None or note.dim() == 1 else note

    def macs(self, place: Place, n: int, body: Backbone, weighs: bool) -> int:
        """Multiply-accumulates of the scores, and of the weights where they are asked for."""
        heads, channels = body.heads(place.block)
        total = n + body.prefix
        full_map = heads * channels * total * total if self.score == "tokens" else 0
        needs_row = self.score in CLASS_SCORES or (weighs and self.has_class)
        return full_map + (class_row_macs(body, place, n) if needs_row else 0)


def class_row_macs(body: Backbone, place: Place, n: int) -> int:
    """The [CLS] row beside the fused kernel: one product with every key, for every class token."""
    heads, channels = body.heads(place.block)
    return len(body.class_tokens) * heads * channels * (n + body.prefix)
