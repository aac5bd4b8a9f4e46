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
from ..core.reductions import Keep, Reduction
from ..core.schedule import Place, rate_at, round_count
from ..core.tokens import Tokens
from .base import Method, top
from .parts.checks import check_counts, check_flag, check_number
from .parts.scorer import Scorer
from .registry import register_method

LEAVE = 14.0  # of the default shape, where no number is given at all
STEPS = 10  # of `leave`, from one whole token to the next, in which a budget is solved
LATE = 1.5  # how much faster tokens leave in the last quarter of the depth


@register_method
class DiffRate(Method):
    """Between attention and MLP of the chosen blocks, drop the patch tokens that get the least class attention; of
    those left, the least attentive ones each join the most similar of the others, by cosine of the features.

    Source: Chen et al., "DiffRate", ICCV 2023: its two lists are learned there, and given here.

    Args:
        leave: tokens that leave at each place of the default shape, half of them dropped and half joined; half as many
            again in the last quarter of the blocks; a broken number is spread over the places (default: 14, unless
            `pruned` or `merged` is given)
        pruned: tokens to drop at each place; one number, or one for each place
        merged: tokens that join others at each place; one number, or one for each place
        at: blocks at which it acts, counted from 0 (default: all; with `leave` all but the first sixth, 2 to 11 of 12)
        score: as for EViT
        proportional: merged tokens weigh more in attention, by their size, as in ToMe

    One patch token always stays. Raises ValueError for options out of range and, when bound, for a model without [CLS]
    unless score="tokens".

    Example:
        >>> fast = vitrim.reduce(model, vitrim.DiffRate(pruned=[0, 4, 6, 8], merged=[0, 6, 6, 10]))
        >>> vitrim.profile(fast).tokens
        [64, 54, 42, 24]
        >>> vitrim.profile(vitrim.reduce(model, vitrim.DiffRate(leave=12))).tokens
        [52, 40, 28, 10]
    """

    name = "diffrate"
    title = "drop the least attentive tokens, merge the next"
    dial = "leave"
    guided = True
    scorer: Scorer
    weighs = True

    def __init__(
        self,
        leave: float | None = None,
        pruned: int | Sequence[int] | None = None,
        merged: int | Sequence[int] | None = None,
        at: Any = None,
        score: Any = "cls",
        proportional: bool = True,
    ):
        super().__init__(at=at, scorer=Scorer(score))
        self.listed = not (pruned is None and merged is None)
        if self.listed and leave is not None:
            raise OptionError(
                {"leave": leave},
                " sets the counts, and so do pruned and merged: leave it out, or them (macs= sets leave)",
            )
        number = "a number of tokens from 0, such as 14"
        self.leave = None if leave is None else check_number("leave", leave, lambda n: n >= 0, number)
        self.pruned, self.merged = check_counts("pruned", pruned, 0), check_counts("merged", merged, 0)
        self.proportional = check_flag("proportional", proportional)

    def bind(self, body: Backbone) -> None:
        super().bind(body)
        check_counts("pruned", self.pruned, 0, len(self.places))
        check_counts("merged", self.merged, 0, len(self.places))
        blocks = [place.block for place in self.places]
        self.counts_at = self._given(len(blocks)) if self.listed else default_shape(self._leave, blocks, body.depth)

    def default_places(self, depth: int) -> tuple[int, ...]:
        return tuple(range(0 if self.listed else depth // 6, depth))

    @property
    def _leave(self) -> float:
        return LEAVE if self.leave is None else self.leave

    def _given(self, places: int) -> tuple[tuple[int, int], ...]:
        pruned, merged = self.pruned or 0, self.merged or 0
        return tuple((rate_at(pruned, j), rate_at(merged, j)) for j in range(places))

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
        pruned, merged = self.counts_at[place.index]
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
            return f"leave={self._leave:g}"
        return ", ".join(f"{name}={' '.join(map(str, several))}" for name, several in self._lists())

    def _lists(self):
        for name in ("pruned", "merged"):
            value = getattr(self, name)
            if value is not None:
                yield name, value if isinstance(value, tuple) else (value,)

    @classmethod
    def dial_values(cls, body: Backbone) -> tuple[float, ...]:
        height, width = body.grid()
        return tuple(step / STEPS for step in range(height * width * STEPS, -1, -1))


def default_shape(leave: float, blocks: Sequence[int], depth: int) -> tuple[tuple[int, int], ...]:
    """(dropped, joined) at each of the blocks: as many in each, half as many again in the last quarter of the depth.

    The shape that learning finds in published models: blocks 0 and 1 of 12 are left alone, then the number of tokens
    falls almost linearly, faster after block 8, and half of what leaves is dropped.

    Example:
        >>> default_shape(10.5, range(2, 12), 12)[:3], default_shape(10.5, range(2, 12), 12)[-1]
        (((5, 6), (5, 5), (5, 6)), (8, 8))
    """
    weights = [LATE if 4 * block >= 3 * depth else 1.0 for block in blocks]
    totals = [round_count(leave * sum(weights[: j + 1]), 1) for j in range(len(weights))]
    left = [after - before for before, after in zip([0, *totals], totals, strict=False)]
    return tuple((each // 2, each - each // 2) for each in left)


def most_similar(
    moved: Float[Tensor, "b r c"], others: Float[Tensor, "b m c"]
) -> tuple[Float[Tensor, "b r"], Int[Tensor, "b r"]]:
    """For every moved token the cosine to the most similar of the others, and that one's number."""
    with without_autocast(moved.device):
        one, other = (F.normalize(_full(x), dim=2) for x in (moved, others))
        best, partner = torch.bmm(one, other.transpose(1, 2)).max(dim=2)
    return best, partner


def _full(x: Tensor) -> Tensor:
    return x.detach().to(torch.promote_types(x.dtype, torch.float32))
