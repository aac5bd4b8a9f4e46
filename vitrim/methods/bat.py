"""BAT: keep the attentive tokens, merge the rest by density peaks, match alike attentive ones (Long et al., "Beyond
Attentive Tokens: Incorporating Token Importance and Diversity for Efficient Vision Transformers", CVPR 2023)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor, nn

from ..backbones.base import Backbone
from ..core.evidence import Evidence
from ..core.precision import without_autocast
from ..core.recording import length
from ..core.reductions import Keep, Reduction, take_rows
from ..core.schedule import Place, ceil_count, rate_at
from ..core.tokens import Tokens
from .base import Method, top
from .parts.bat_sequence import Parts, merge_parts
from .parts.checks import check_count, check_counts, check_flag, check_one_of
from .parts.clustering import Groups, Weigher, density_peaks, k_means, k_means_macs, one_group, runs, z_order
from .parts.large import image_by_image, too_large
from .parts.scorer import Scorer
from .registry import register_method

MERGES = ("none", "pack", "cluster", "cluster+match")
MERGERS = ("density", "kmeans", "average", "max", "spatial", "convolution", "mlp")
BY_ATTENTION = ("density", "kmeans")  # mergers whose members weigh by class attention (Eq. 8)
LEARNED = ("convolution", "mlp")


@register_method
class BAT(Method):
    """Between attention and MLP of the chosen blocks, keep the most attentive patch tokens; cluster the others and make
    each cluster one token, weighted by class attention; then merge the most alike of the attentive tokens in pairs.

    Source: Long et al., "Beyond Attentive Tokens", CVPR 2023, section 4: ceil(keep * n) of n tokens are the attentive
    ones; Eq. 6 to 8.

    Args:
        keep: share of the patch tokens that count as attentive and stay, such as 0.7; one number, or one for each
            place; 0: all tokens are clustered (Fig. 1b)
        at: blocks at which it acts, counted from 0 (default: evenly, 3 6 9 of 12)
        merge: what becomes of the others (Table 3): "none", dropped; "pack", one token; "cluster", one token for each
            cluster; "cluster+match", and attentive tokens that are alike are merged too
        clusters: number of clusters at each place (default: a tenth of the tokens left out; 2 without matching)
        pairs: attentive tokens that matching removes at each place, at most half of them (default: clusters - 1)
        neighbours: nearest tokens that the density looks at (in Python None: all)
        normalise: weights sum to 1 in every group; off: as the paper writes them (Eq. 8)
        merger: how tokens are grouped (Table 4): "density", "kmeans", "average", "max", "spatial"; "convolution" and
            "mlp" must be trained
        iterations: rounds of k-means
        score: as for EViT

    Raises ValueError for options out of range and, when bound, for a model without [CLS] that its score needs.

    Example:
        >>> fast = vitrim.reduce(model, vitrim.BAT(keep=0.5))
        >>> vitrim.profile(fast).tokens  # patch tokens in each of the 4 blocks, of 64
        [64, 33, 18, 10]
        >>> vitrim.profile(vitrim.reduce(model, vitrim.BAT(keep=0.5, merge="none"))).tokens
        [64, 32, 16, 8]
    """

    name = "bat"
    title = "keep the attentive tokens, cluster the rest, match alike ones"
    guided = True
    scorer: Scorer
    weighs = True

    def __init__(
        self,
        keep: Any = 0.7,
        at: Any = None,
        merge: str = "cluster+match",
        clusters: int | Sequence[int] | None = None,
        pairs: int | Sequence[int] | None = None,
        neighbours: int | None = 5,
        normalise: bool = True,
        merger: str = "density",
        iterations: int = 3,
        score: Any = "cls",
    ):
        merge = check_one_of("merge", merge, MERGES)
        super().__init__(keep, at, scorer=Scorer(score), zero=True)
        self.merge, self.merger = merge, check_one_of("merger", merger, MERGERS)
        self.clusters, self.pairs = check_counts("clusters", clusters, 1), check_counts("pairs", pairs, 0)
        self.neighbours = None if neighbours is None else check_count("neighbours", neighbours, 1)
        self.iterations = check_count("iterations", iterations, 1)
        self.normalise, self.weighs = check_flag("normalise", normalise), merge != "none"
        if merge in ("none", "pack") and merger != "density":
            raise ValueError(f'merger={merger!r} has nothing to group with merge={merge!r}: use merge="cluster"')
        if merge == "none" and 0 in (self.keep if isinstance(self.keep, tuple) else (self.keep,)):
            raise ValueError('keep=0 leaves no patch token with merge="none": use merge="cluster"')

    def bind(self, body: Backbone) -> None:
        super().bind(body)
        check_counts("clusters", self.clusters, 1, len(self.places))
        check_counts("pairs", self.pairs, 0, len(self.places))

    def build(self, body: Backbone) -> None:
        if self.merger in LEARNED:
            convolves = self.merger == "convolution"
            self.weighers = nn.ModuleList(Weigher(body.width, convolves) for _ in self.places)

    # -- the decision

    def acts_on(self, place: Place, n: int) -> bool:
        return ceil_count(place.keep, n) < n

    def forward(self, tokens: Tokens, evidence: Evidence, place: Place) -> Reduction:
        k, m, p = self.plan(place, tokens.n)
        scores = self.scorer.scores(tokens, evidence, place, self.number)
        attentive, inattentive = decouple(scores, k)
        if self.merge == "none":
            return Keep(attentive, inattentive, scores=scores)
        importance = self.scorer.weights(scores, tokens, evidence, self.number)
        inattentive = self._in_order(inattentive, tokens)
        groups = self._group(tokens.take(inattentive), take_rows(importance, inattentive), m, place)
        pairs = match(tokens.take(attentive), p) if p else None
        parts = Parts(attentive, pairs, inattentive, groups)
        return merge_parts(parts, importance, self.normalise, maximum=self.merger == "max", scores=scores)

    def plan(self, place: Place, n: int) -> tuple[int, int, int]:
        """Of n tokens: how many stay attentive, how many clusters the others form, how many pairs are matched."""
        k = ceil_count(place.keep, n)
        if k == n or self.merge == "none":
            return k, 0, 0
        m = min(self._clusters(place, k, n - k), n - k)
        wanted = m - 1 if self.pairs is None else rate_at(self.pairs, place.index)
        return k, m, min(wanted, k // 2) if self.merge == "cluster+match" else 0

    def _clusters(self, place: Place, k: int, q: int) -> int:
        if self.merge == "pack":
            return 1
        if self.clusters is not None:
            return rate_at(self.clusters, place.index)
        return 2 if self.merge == "cluster" and k else max(1, round(0.1 * q))

    def _in_order(self, inattentive: Int[Tensor, "b q"], tokens: Tokens) -> Int[Tensor, "b q"]:
        """By number (density peaks), by place on the image (pooling), or as they are, by attention (k-means)."""
        if self.merger == "kmeans" or self.merge == "pack":
            return inattentive
        key = inattentive if self.merger == "density" else take_rows(tokens.origin(), inattentive)
        if self.merger == "spatial":
            key = torch.tensor(z_order(*tokens.grid), device=key.device)[key]
        order = torch.topk(key, length(key, 1), dim=1, largest=False).indices
        return inattentive.gather(1, order)

    def _group(self, z: Float[Tensor, "b q c"], importance: Float[Tensor, "b q"], m: int, place: Place) -> Groups:
        """The inattentive tokens in m groups (section 4.4, Table 4)."""
        if self.merger in BY_ATTENTION and m in (1, length(z, 1)):
            return one_group(importance) if m == 1 else runs(z, m)
        if self.merger in BY_ATTENTION:
            return density_peaks(z, m, self.neighbours) if self.merger == "density" else k_means(z, m, self.iterations)
        weights = self.weighers[place.index](z) if self.merger in LEARNED else torch.ones_like(importance)
        return replace(runs(z, m), weights=weights)

    # -- what it costs

    def count(self, place: Place, n: int) -> int:
        k, m, p = self.plan(place, n)
        return k + m - p

    def macs(self, place: Place, n: int, body: Backbone) -> int:
        k, m, p = self.plan(place, n)
        scoring = self.scorer.macs(place, n, body, weighs=self.merge != "none")
        matching = (k // 2) * (k - k // 2) * body.width if p else 0
        return scoring + self._grouping_macs(n - k, m, body.width) + matching

    def _grouping_macs(self, q: int, m: int, channels: int) -> int:
        if self.merger in LEARNED:
            return Weigher.macs(q, channels, self.merger == "convolution")
        if self.merger not in BY_ATTENTION or not 1 < m < q:
            return 0
        return q * q * channels if self.merger == "density" else k_means_macs(q, m, channels, self.iterations)


def decouple(scores: Float[Tensor, "b n"], k: int) -> tuple[Int[Tensor, "b k"], Int[Tensor, "b q"]]:
    """The k most attentive tokens and the q others, most attentive first (section 4.3)."""
    order = top(scores, length(scores, 1))
    return order[:, :k], order[:, k:]


def match(features: Float[Tensor, "b k c"], p: int) -> tuple[Int[Tensor, "b p"], Int[Tensor, "b p"]]:
    """The p most alike pairs of attentive tokens, most attentive first: (those that join, those that they join).

    By rank, even and odd tokens alternate. Each even one proposes its most similar odd one by cosine. The best
    proposals with distinct partners hold; should there be fewer than p, the best of the others join them.
    """
    if too_large(features):
        return image_by_image(features, lambda images: match(images, p))
    with without_autocast(features.device):
        features = features.detach().to(torch.promote_types(features.dtype, torch.float32))
        unit = F.normalize(features, dim=2)
        similar = torch.bmm(unit[:, 0::2], unit[:, 1::2].transpose(1, 2))
    best, partner = similar.max(dim=2)
    proposed = partner.unsqueeze(2) == torch.arange(similar.shape[2], device=partner.device)
    winner = best.unsqueeze(2).masked_fill(~proposed, float("-inf")).argmax(dim=1)
    wins = winner.gather(1, partner) == torch.arange(similar.shape[1], device=partner.device)
    # Cosines lie within 2 of each other, so whoever lost the partner comes behind all who won one.
    source = top(torch.where(wins, best, best - 3), p)
    return 2 * source, 2 * partner.gather(1, source) + 1
