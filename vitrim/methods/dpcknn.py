"""DPC-KNN: cluster all patch tokens by density peaks, stage by stage (Zeng et al., "Not All Tokens Are Equal:
Human-centric Visual Analysis via Token Clustering Transformer", CVPR 2022)."""

from __future__ import annotations

from typing import Any

from jaxtyping import Float
from torch import Tensor

from ..backbones.base import Backbone
from ..core.evidence import Evidence
from ..core.joining import Join
from ..core.recording import length
from ..core.reductions import Reduction
from ..core.schedule import Place, ceil_count
from ..core.tokens import Tokens
from .base import Method
from .parts.checks import check_count, check_flag
from .parts.clustering import (
    Groups,
    columns,
    distances_to_denser,
    log_densities,
    others,
    own_group,
    peaks,
    squared_distances,
)
from .parts.large import by_rows, image_by_image, too_large
from .registry import register_method


@register_method
class DPCKNN(Method):
    """Before the chosen blocks the patch tokens form clusters; each becomes one token, the mean of its members weighted
    by the patches that they stand for.

    Source: Zeng et al., "Not All Tokens Are Equal", CVPR 2022: ceil(keep * n) clusters of n tokens.

    Args:
        keep: share of the patch tokens that become clusters, and then tokens; one number, or one for each place
        at: blocks at which it acts, counted from 0 (default: evenly, 3 6 9 of 12)
        neighbours: nearest tokens that the density looks at
        proportional: merged tokens weigh more in attention, by their size, as in ToMe

    Raises ValueError for options out of range.

    Example:
        >>> fast = vitrim.reduce(model, vitrim.DPCKNN(keep=0.5))
        >>> vitrim.profile(fast).tokens  # patch tokens in each of the 4 blocks, of 64
        [64, 32, 16, 8]
    """

    name = "dpcknn"
    title = "cluster tokens by density peaks"
    acts = "before"
    weighs = True

    def __init__(self, keep: Any = 0.7, at: Any = None, neighbours: int = 5, proportional: bool = True):
        super().__init__(keep, at)
        self.neighbours = check_count("neighbours", neighbours, 1)
        self.proportional = check_flag("proportional", proportional)

    def forward(self, tokens: Tokens, evidence: Evidence, place: Place) -> Reduction:
        groups = nearest_peaks(tokens.patches, self.count(place, tokens.n), self.neighbours)
        moved = others(groups.lead, tokens.n)
        return Join(groups.lead, moved, groups.group.gather(1, moved), tokens.sizes, proportional=self.proportional)

    def count(self, place: Place, n: int) -> int:
        return ceil_count(place.keep, n)

    def macs(self, place: Place, n: int, body: Backbone) -> int:
        return n * n * body.width


def nearest_peaks(z: Float[Tensor, "b n c"], m: int, neighbours: int) -> Groups:
    """The m tokens with the largest density times distance to the nearest denser token, and for every token the nearest
    of them. The density is exp(-mean squared distance to the nearest `neighbours`); 0 < m < n."""
    if too_large(z):
        return image_by_image(z, lambda image: nearest_peaks(image, m, neighbours))
    distances = squared_distances(z)
    log_density = log_densities(distances, neighbours)
    apart = distances_to_denser(distances, log_density)
    # Distances are squared here and plain in the paper's product: half of their logarithm.
    lead = peaks(log_density + apart.log() / 2, m)
    nearest = by_rows(lambda rows: columns(distances[:, rows], lead).argmin(dim=2), length(z, 1))
    return Groups(own_group(nearest, lead), lead)
