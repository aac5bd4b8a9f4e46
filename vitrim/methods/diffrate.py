"""DiffRate: prune and merge in one step, with a count of each for every block (Chen et al., "DiffRate: Differentiable
Compression Rate for Efficient Vision Transformers", ICCV 2023)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor

from ..backbones.base import Backbone
from ..common.errors import OptionError
from ..core.evidence import Evidence
from ..core.joining import Absorb
from ..core.precision import without_autocast
from ..core.recording import length
from ..core.reductions import Keep, Reduction
from ..core.schedule import Place, ceil_count, rate_at
from ..core.tokens import Tokens
from ..core.values import as_several
from .base import Method, top
from .parts.checks import check_counts, check_flag
from .parts.large import image_by_image, too_large
from .parts.scorer import Scorer
from .registry import register_method

KEEP = 0.9


@register_method
class DiffRate(Method):
    """Between attention and MLP of the chosen blocks, drop the patch tokens that get the least class attention; of
    those left, the least attentive ones each join the most similar of the others, by cosine of the features.

    Source: Chen et al., "DiffRate", ICCV 2023: its two lists are learned there, and given here.

    Args:
        keep: share of the patch tokens that is left at each place, half of what leaves being dropped and half joined;
            one number, or one for each place (default: 0.9, unless `pruned` or `merged` is given)
        pruned: tokens to drop at each place; one number, or one for each place
        merged: tokens that join others at each place; one number, or one for each place
        at: blocks at which it acts, counted from 0 (default: with `keep` all but the first sixth, 2 to 11 of 12; with
            `pruned` or `merged` all)
        score: as for EViT
        proportional: merged tokens weigh more in attention, by their size, as in ToMe

    One patch token always stays. Raises ValueError for options out of range and, when bound, for a model without [CLS]
    that its score needs.

    Example:
        >>> fast = vitrim.reduce(model, vitrim.DiffRate(pruned=[0, 4, 6, 8], merged=[0, 6, 6, 10]))
        >>> vitrim.profile(fast).tokens
        [64, 54, 42, 24]
        >>> vitrim.profile(vitrim.reduce(model, vitrim.DiffRate(keep=0.8))).tokens
        [52, 42, 34, 28]
    """

    name = "diffrate"
    title = "drop the least attentive tokens, merge the next"
    guided = True
    scorer: Scorer
    weighs = True

    def __init__(
        self,
        keep: Any = None,
        pruned: int | Sequence[int] | None = None,
        merged: int | Sequence[int] | None = None,
        at: Any = None,
        score: Any = "cls",
        proportional: bool = True,
    ):
        self.listed = not (pruned is None and merged is None)
        super().__init__(1.0 if keep is None else keep, at, scorer=Scorer(score))
        if self.listed and keep is not None:
            raise OptionError(
                {"keep": keep},
                " says how many leave (macs= sets it), and so do pruned and merged: leave it out, or them",
            )
        self.keep, self.default_keep = None if keep is None else self.keep, 1.0 if self.listed else KEEP
        self.pruned, self.merged = check_counts("pruned", pruned, 0), check_counts("merged", merged, 0)
        self.proportional = check_flag("proportional", proportional)

    def bind(self, body: Backbone) -> None:
        super().bind(body)
        check_counts("pruned", self.pruned, 0, len(self.places))
        check_counts("merged", self.merged, 0, len(self.places))

    def default_places(self, depth: int) -> tuple[int, ...]:
        return tuple(range(0 if self.listed else max(depth // 6, bool(self.follows)), depth))

    # -- the decision

    def forward(self, tokens: Tokens, evidence: Evidence, place: Place) -> Reduction:
        pruned, merged = self.plan(place, tokens.n)
        scores, left = self.scorer.scores(tokens, evidence, place, self.number), tokens.n - pruned
        order = top(scores, left)
        if not merged:
            return Keep(order, scores=scores)
        lead, moved = order[:, : left - merged], order[:, left - merged :]
        similar, into = most_similar(tokens.take(moved), tokens.take(lead))
        return Absorb(
            lead, moved, into, tokens.sizes, proportional=self.proportional, similar=similar.clamp(min=0), scores=scores
        )

    def plan(self, place: Place, n: int) -> tuple[int, int]:
        """Of n tokens: how many are dropped, and how many join others."""
        if self.listed:
            pruned, merged = (rate_at(counts or 0, place.index) for counts in (self.pruned, self.merged))
        else:
            pruned, merged = halves(n - ceil_count(place.keep, n))
        pruned = min(pruned, n - 1)
        return pruned, min(merged, n - 1 - pruned)

    # -- what it costs

    def count(self, place: Place, n: int) -> int:
        return n - sum(self.plan(place, n))

    def macs(self, place: Place, n: int, body: Backbone) -> int:
        pruned, merged = self.plan(place, n)
        return self.scorer.macs(place, n, body, weighs=False) + merged * (n - pruned - merged) * body.width

    @property
    def dial_setting(self) -> str:
        if not self.listed:
            return super().dial_setting
        lists = ((name, getattr(self, name)) for name in ("pruned", "merged"))
        return ", ".join(f"{name}={' '.join(map(str, as_several(n) or [n]))}" for name, n in lists if n is not None)


def halves(n: int) -> tuple[int, int]:
    """n in two halves; of an odd number the second is the larger.

    Example:
        >>> halves(6), halves(7)
        ((3, 3), (3, 4))
    """
    return n // 2, n - n // 2


def most_similar(
    moved: Float[Tensor, "b r c"], others: Float[Tensor, "b m c"]
) -> tuple[Float[Tensor, "b r"], Int[Tensor, "b r"]]:
    """For every moved token the cosine to the most similar of the others, and that one's number."""
    if too_large(moved if length(moved, 1) > length(others, 1) else others):
        both, r = torch.cat([moved, others], dim=1), length(moved, 1)
        return image_by_image(both, lambda images: most_similar(images[:, :r], images[:, r:]))
    with without_autocast(moved.device):
        one, other = (F.normalize(_full(x), dim=2) for x in (moved, others))
        best, partner = torch.bmm(one, other.transpose(1, 2)).max(dim=2)
    return best, partner


def _full(x: Tensor) -> Tensor:
    return x.detach().to(torch.promote_types(x.dtype, torch.float32))
