"""IdleViT: idle a token for one block, let it come back (Xu et al., "No Token Left Behind", 2023)."""

from __future__ import annotations

from typing import Any

import torch
from torch import nn

from ..backbones.base import Backbone
from ..common.errors import UnfitModel
from ..core.evidence import Evidence
from ..core.masking import Mask
from ..core.reductions import Keep, Reduction
from ..core.schedule import Place, as_places, check_places, even_places, floor_count, shares
from ..core.tokens import Tokens
from ..core.values import as_several
from .base import Method, top
from .parts.checks import check_count, check_one_of
from .parts.masks import best_mask, drawn
from .parts.predictor import Predictor
from .parts.scorer import SHIFTS, check_followed, class_row_macs, shift_of
from .registry import register_method

SCORES = ("logit", "softmax", *SHIFTS, "predictor")


@register_method
class IdleViT(Method):
    """Before each idling block, select the patch tokens with the highest scores. Only they and the prefix tokens go
    through the block; the others skip it, unchanged, and can be selected again at the next block.

    Source: Xu et al., "No Token Left Behind", 2023, section 3.2: floor(N * keep^(stage-1)) of N tokens are selected.

    Args:
        keep: share of the patch tokens that go through a block, one for each idling block; one number, 0.7, is short
            for 0.7, 0.7^2, 0.7^3 in the stages that idle
        blocks: blocks at which tokens idle, counted from 0 (default: all of stages 2 to 4, 3 to 11 of 12; the authors'
            training script: 4 to 11)
        score: what makes a token worth a block: "logit", the logit of [CLS] for it; "softmax", EViT's class attention;
            "shift" and "shift-mlp", how far it moved in the last block that it went through, or in that block's MLP;
            "predictor", a small network that must be trained. The last three are for models without [CLS] too, and
            for Swin (Table 3)
        stages: number of stages that the blocks are cut into

    Raises ValueError for options out of range and, when bound, for a model without [CLS] unless score is
    "predictor", "shift" or "shift-mlp".

    Example:
        >>> fast = vitrim.reduce(model, vitrim.IdleViT(keep=0.5))
        >>> vitrim.profile(fast).tokens  # patch tokens in each of the 4 blocks, of 64
        [64, 32, 16, 8]
        >>> fast.forward_features(images).shape  # no token is lost: [CLS] and 64 patch tokens
        torch.Size([2, 65, 192])
    """

    name = "idlevit"
    title = "idle tokens for one block, let them come back"
    acts = "before"

    def __init__(self, keep: Any = 0.7, blocks: Any = None, score: str = "logit", stages: int = 4):
        super().__init__(keep)
        self.blocks = blocks if blocks is None else as_places(blocks, "blocks")
        self.score, self.stages = check_one_of("score", score, SCORES), check_count("stages", stages, 2)
        self.trains_masked, self.follows = self.score == "predictor", SHIFTS.get(self.score)

    @property
    def losses(self) -> dict[str, float]:
        return {"cut": 0.0, **super().losses}

    def bind(self, body: Backbone) -> None:
        cut = body.default_blocks
        given = self.blocks is not None
        blocks = check_places(self.blocks, body.depth, "blocks") if given else range(self._bounds(cut)[0], cut.stop)
        kept = self._shares(len(blocks), cut)
        self.places = tuple(Place(j, block, kept[j]) for j, block in enumerate(blocks))
        if not body.class_tokens and self.score in ("logit", "softmax"):
            raise UnfitModel(
                "idlevit with ",
                {"score": self.score},
                f" needs a [CLS] token and {type(body.model).__name__} has none: use ",
                {"score": "shift"},
                ", or to train ",
                {"score": "predictor"},
            )
        check_followed(self, body)

    def _bounds(self, cut: range) -> list[int]:
        """The first blocks of the stages after the first, and the end of the last."""
        if len(cut) < self.stages:
            fewer = f"stages={len(cut)}, or " if len(cut) > 1 else ""
            blocks, keep = (self.blocks, (0.7,) * len(self.blocks)) if self.blocks else ((cut.start,), (0.7,))
            raise ValueError(
                f"idlevit cannot cut the {len(cut)} block{'s' * (len(cut) != 1)} of this model in which tokens may "
                f"idle into {self.stages} stages: give {fewer}a keep rate for each idling block, such as "
                f"blocks={blocks}, keep={keep}"
            )
        return [*(cut.start + block for block in even_places(len(cut), self.stages - 1)), cut.stop]

    def _shares(self, blocks: int, cut: range) -> list[float]:
        """The share of N that each idling block keeps."""
        if as_several(self.keep) is not None:
            return shares(self.keep, blocks)
        bounds = self._bounds(cut)
        stages = [p + 1 for p in range(self.stages - 1) for _ in range(bounds[p], bounds[p + 1])]
        return shares(self.keep, blocks, [stages[min(j, len(stages) - 1)] for j in range(blocks)])

    def build(self, body: Backbone) -> None:
        if self.score == "predictor":
            self.predictors = nn.ModuleList(Predictor(body.channels(p.block)) for p in self.places)

    def forward(self, tokens: Tokens, evidence: Evidence, place: Place) -> Reduction:
        k = floor_count(place.keep, tokens.n)
        if self.score == "predictor":
            return self._predicted(tokens, k, place)
        if self.follows:
            scores = shift_of(tokens, self.number)
        else:
            scores = evidence.class_logits() if self.score == "logit" else evidence.class_attention()
        return Keep(top(scores, k), scores=scores)

    def _predicted(self, tokens: Tokens, k: int, place: Place) -> Reduction:
        """The k best by the predictor; in training each token's own decision, drawn, as a mask over all."""
        decision = self.predictors[place.index](tokens.patches, tokens.mask)
        scores = decision[..., 0]
        if not self.masked:
            return Keep(top(scores, k), scores=scores)
        if self.training:
            return Mask(drawn(decision, tokens.mask), scores=scores)
        if tokens.mask is not None:  # of those that a method before has left
            left = torch.tensor([floor_count(place.keep, round(n)) for n in tokens.mask.sum(dim=1).tolist()])
            return Mask(best_mask(scores, left, tokens.mask), scores=scores)
        return Mask(best_mask(scores, k, None), scores=scores)

    def restore_before(self, place: Place) -> int:
        return place.block + 1

    def count(self, place: Place, n: int) -> int:
        return floor_count(place.keep, n)

    def macs(self, place: Place, n: int, body: Backbone) -> int:
        if self.score == "predictor":
            return Predictor.macs(body.channels(place.block), n)
        if self.score == "logit":
            return body.class_logit_macs(place.block, n)
        if self.follows:
            return 0
        return body.class_query_macs(place.block) + body.key_macs(place.block, n) + class_row_macs(body, place, n)
