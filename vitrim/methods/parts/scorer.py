"""What patch tokens are chosen by: EViT's scores, which TopK and BAT share."""

from __future__ import annotations

import math
from typing import Any

from jaxtyping import Float
from torch import Tensor

from ...backbones.base import Backbone
from ...common.errors import OptionError, UnfitModel
from ...core.evidence import Evidence
from ...core.schedule import Place
from ...core.seeds import image_seed, random_scores
from ...core.tokens import Tokens
from .checks import check_score, check_seed

# How far a token has moved (Representation Shift, ICCV 2025): in the block before the place, or in that block's MLP.
SHIFTS = {"shift": "block", "shift-mlp": "mlp"}
CLASS_SCORES = ("cls", "cls-values", "-cls")
SCORES = ("cls", "cls-values", "tokens", *SHIFTS, "random", "-cls")


class Scorer:
    """Scores of the patch tokens at a place; the largest are kept.

    score: "cls": class attention (EViT Eq. 2); "cls-values": the same of each head times the norm of the head's value,
           which says how much of a token [CLS] receives (ATS); "tokens": mean of all rows of the map (Eq. 4), for
           models without [CLS]; "shift", "shift-mlp": how far it has moved, for these, too; "random", "-cls": random
           scores seeded per image, and the least attentive first (Table 15); or a callable, images to scores [b, n]
           (Table 14)
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

    @property
    def follows(self) -> str | None:
        """What part of the block before tells it how far tokens move: "block" or "mlp"; None: none."""
        return SHIFTS.get(self.score) if isinstance(self.score, str) else None

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
        if self.follows:
            return shift_of(tokens, number)
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
            return scores / scores.sum(dim=1, keepdim=True) if self.follows else scores
        by_name = {"cls": scores, "-cls": -scores} if self._given(tokens, number) is None else {}
        return by_name[self.score] if self.score in by_name else evidence.class_attention()

    def _given(self, tokens: Tokens, number: int) -> Float[Tensor, "b n"] | None:
        """Scores from outside, of the tokens now present."""
        note = tokens.notes.get(number)
        return note if note is not None and note.dim() == 2 else None

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


def shift_of(tokens: Tokens, number: int) -> Float[Tensor, "b n"]:
    """How far every token had moved when method `number` of the stack last noted it (`Method.moved`)."""
    return tokens.notes[number].squeeze(2)


def check_followed(method: Any, body: Backbone) -> None:
    """Raises ValueError where a method goes by how far tokens moved in the block before, and there is none with the
    same tokens: at the first block, and at the first of a stage."""
    if method.follows is None:
        return
    grid = body.grid()
    for place in method.places:
        here = body.grid_at(place.block, grid)
        if (not place.block or body.grid_at(place.block - 1, grid) != here) and method.acts_on(place, math.prod(here)):
            option = "at" if "at" in method.option_names() else "blocks"
            raise OptionError(
                {"score": method.score},
                f" goes by how far tokens moved in the block before, and before block {place.block} they have not "
                f"moved yet: give {method.name} later blocks, such as ",
                {option: (place.block + 1,)},
            )
