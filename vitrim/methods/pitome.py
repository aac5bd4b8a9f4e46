"""PiToMe: merge tokens that have many like them, and protect those that are rare (Tran et al., "Accelerating
Transformers with Spectrum-Preserving Token Merging", NeurIPS 2024)."""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor

from ..backbones.base import Backbone
from ..core.evidence import Evidence
from ..core.joining import Join
from ..core.precision import without_autocast
from ..core.recording import length
from ..core.reductions import Reduction
from ..core.rows import take_rows
from ..core.schedule import Place, floor_count
from ..core.tokens import Tokens
from .base import Method, top
from .parts.checks import check_flag, check_number
from .parts.large import by_rows, image_by_image, too_large
from .registry import register_method
from .tome import bipartite_soft_matching, mean_keys


@register_method
class PiToMe(Method):
    """Between attention and MLP of the chosen blocks, merge pairs of similar patch tokens, as ToMe does, but only among
    those of high energy: the tokens that have many others like them. Rare ones are protected.

    Source: Tran et al., "Accelerating Transformers with Spectrum-Preserving Token Merging", NeurIPS 2024: the energy of
    a token is the mean over all tokens of ELU(cosine of the keys - m), with m falling from block to block.

    Args:
        keep: share of the patch tokens that is left at each place, at least half; one number, or one for each place
        at: blocks at which it acts, counted from 0 (default: all)
        margin: m in the first block, from 0 to 1: cosines below it speak against merging; m falls to 0 behind the last
        proportional: merged tokens weigh more in attention, by their size, as in ToMe

    In the first half of the depth every token may merge, and the energy says who may merge with whom; in the second
    half the tokens of lowest energy stay alone.

    Raises ValueError for options out of range.

    Example:
        >>> fast = vitrim.reduce(model, vitrim.PiToMe(keep=0.9))
        >>> vitrim.profile(fast).tokens  # patch tokens in each of the 4 blocks, of 64
        [57, 51, 45, 40]
    """

    name = "pitome"
    title = "merge similar tokens, protect rare ones"
    weighs = True
    depth = 0  # blocks of the model

    def __init__(self, keep: Any = 0.9, at: Any = None, margin: float = 0.75, proportional: bool = True):
        super().__init__(keep, at)
        self.margin = check_number("margin", margin, lambda m: 0 <= m <= 1, "a number from 0 to 1")
        self.proportional = check_flag("proportional", proportional)

    def bind(self, body: Backbone) -> None:
        super().bind(body)
        self.depth = body.depth

    def default_places(self, depth: int) -> tuple[int, ...]:
        return tuple(range(depth))

    # -- the decision

    def forward(self, tokens: Tokens, evidence: Evidence, place: Place) -> Reduction:
        r, keys = self._merged(place, tokens.n), mean_keys(evidence)
        scores = energy(keys, self.margin * (1 - place.block / self.depth))
        order = top(scores, tokens.n)
        may_merge = self._may_merge(place, tokens.n)
        dealt, protected = order[:, :may_merge], order[:, may_merge:]
        stay, moved, into = bipartite_soft_matching(take_rows(keys, dealt), r)
        lead = torch.cat([dealt.gather(1, stay), protected], dim=1)
        sizes, proportional = tokens.sizes, self.proportional
        return Join(lead, dealt.gather(1, moved), into, sizes, proportional=proportional, scores=scores)

    def _merged(self, place: Place, n: int) -> int:
        return min(n - floor_count(place.keep, n), n // 2)

    def _may_merge(self, place: Place, n: int) -> int:
        """How many tokens are dealt into the two sets: all, or in the second half of the depth those of the highest
        energy."""
        return n if 2 * place.block < self.depth else 2 * self._merged(place, n)

    # -- what it costs

    def count(self, place: Place, n: int) -> int:
        return n - self._merged(place, n)

    def macs(self, place: Place, n: int, body: Backbone) -> int:
        dealt = self._may_merge(place, n)
        return (n * n + (dealt // 2) * (dealt - dealt // 2)) * body.heads(place.block)[1]


def energy(keys: Float[Tensor, "b n d"], margin: float) -> Float[Tensor, "b n"]:
    """Mean over all tokens of ELU(cosine - margin): high where a token has many like it."""
    if too_large(keys):
        return image_by_image(keys, lambda images: (energy(images, margin),))[0]
    with without_autocast(keys.device):
        unit = F.normalize(keys, dim=-1)
        similar = torch.bmm(unit, unit.transpose(1, 2)).sub_(margin)  # written over: it is the largest thing here
        return by_rows(lambda rows: F.elu(similar[:, rows], inplace=True).mean(dim=2), length(keys, 1))
