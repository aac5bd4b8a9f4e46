"""Evo-ViT: informative tokens are updated slowly, all others fast (Xu et al., "Evo-ViT: Slow-Fast Token Evolution for
Dynamic Vision Transformer", AAAI 2022)."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from ..backbones.base import Backbone
from ..core.evidence import Evidence
from ..core.reductions import Fuse, Reduction
from ..core.schedule import Place, as_places, check_places, floor_count, shares
from ..core.tokens import Tokens
from ..core.values import as_several
from .base import Method, top
from .parts.checks import check_count, check_number
from .parts.scorer import class_row_macs
from .registry import register_method


@register_method
class EvoViT(Method):
    """Before each of the chosen blocks the patch tokens with the largest global class attention are the informative
    ones. They go through the block together with one representative of all others, their mean weighted by global class
    attention; the others get the representative's update ("slow-fast updating").

    Source: Xu et al., "Evo-ViT", AAAI 2022, section 3: floor(keep * N) of N tokens are the informative ones.

    Global class attention is the class attention averaged over the blocks so far, g <- momentum * g +
    (1 - momentum) * a; a token that stood outside a block keeps its g.

    Args:
        keep: share of the patch tokens that go through a block themselves; one number, or one for each block
        blocks: blocks at which it acts, counted from 0 (default: all but the first third, 4 to 11 of 12)
        stages: the blocks are cut into so many parts, and part s keeps keep^s; 1: all of them keep the same
        momentum: how much the attention of earlier blocks counts, from 0 to below 1

    Raises ValueError for options out of range and, when bound, for a model without [CLS].

    Example:
        >>> fast = vitrim.reduce(model, vitrim.EvoViT(keep=0.5))
        >>> vitrim.profile(fast).tokens  # patch tokens in each of the 4 blocks, of 64
        [64, 33, 33, 33]
    """

    name = "evovit"
    title = "update informative tokens slowly, the others fast"
    acts = "before"

    def __init__(self, keep: Any = 0.5, blocks: Any = None, stages: int = 1, momentum: float = 0.5):
        super().__init__(keep)
        self.blocks = blocks if blocks is None else as_places(blocks, "blocks")
        self.stages = check_count("stages", stages, 1)
        self.momentum = check_number("momentum", momentum, lambda m: 0 <= m < 1, "a number in [0, 1)")

    def bind(self, body: Backbone) -> None:
        if not body.class_tokens:
            raise ValueError(f"evovit needs a [CLS] token and {type(body.model).__name__} has none: try tome or dpcknn")
        default = range(max(1, body.depth // 3), body.depth)
        if not default:
            raise ValueError("evovit chooses by the class attention of the blocks before: a model of 1 block has none")
        blocks = default if self.blocks is None else check_places(self.blocks, body.depth, "blocks")
        if 0 in blocks:
            raise ValueError("blocks: evovit chooses by the class attention of the blocks before, and block 0 has none")
        kept = self._shares(len(blocks))
        self.places = tuple(Place(j, block, share) for j, (block, share) in enumerate(zip(blocks, kept, strict=True)))

    def _shares(self, blocks: int) -> list[float]:
        """The share of N that each of the blocks keeps."""
        if as_several(self.keep) is None and self.stages > blocks:
            raise ValueError(f"stages={self.stages} for {blocks} blocks: give no more stages than blocks")
        starts = [blocks * s // self.stages for s in range(self.stages)]
        return shares(self.keep, blocks, [sum(j >= start for start in starts) for j in range(blocks)])

    def observe(self, tokens: Tokens, evidence: Evidence, block: int) -> Tensor | None:
        """Global class attention [b, n] so far."""
        if not self._needed(block):
            return None
        attention, so_far = evidence.class_attention(), tokens.notes.get(self.number)
        return attention if so_far is None else self.momentum * so_far + (1 - self.momentum) * attention

    def _needed(self, block: int) -> bool:
        """Whether a later block decides by what this one attends to."""
        return any(place.block > block and place.keep < 1 for place in self.places)

    def acts_on(self, place: Place, n: int) -> bool:
        return self._informative(place, n) < n

    def forward(self, tokens: Tokens, evidence: Evidence, place: Place) -> Reduction:
        attention = tokens.notes[self.number]
        kept = top(attention, self._informative(place, tokens.n))
        weights = attention.scatter(1, kept, 0.0)
        # Where all others were idle in every block that was seen, nobody has attended to any: then each counts alike.
        alike = torch.ones_like(attention).scatter(1, kept, 0.0)
        weights = torch.where(weights.sum(dim=1, keepdim=True) > 0, weights, alike)
        return Fuse(kept, weights / weights.sum(dim=1, keepdim=True), scores=attention)

    def restore_before(self, place: Place) -> int:
        return place.block + 1

    def _informative(self, place: Place, n: int) -> int:
        return max(floor_count(place.keep, n), 1)

    def count(self, place: Place, n: int) -> int:
        return self._informative(place, n) + self.acts_on(place, n)

    def macs(self, place: Place, n: int, body: Backbone) -> int:
        return n * body.width  # the representative

    def undo_macs(self, place: Place, n: int, body: Backbone) -> int:
        return n * body.width  # the representative as it was, to know its update

    def observe_macs(self, block: int, n: int, body: Backbone) -> int:
        return class_row_macs(body, Place(0, block), n) if self._needed(block) else 0
