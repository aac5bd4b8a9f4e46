"""BAT's new sequence as one map: attentive tokens, some of them joined by another, then the groups of the others.

Shapes: b images, n tokens before, m after, k attentive tokens, q others.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from jaxtyping import Float, Int
from torch import Tensor

from ...core.recording import length
from ...core.reductions import Keep, Merge, Reduction
from .clustering import Groups, others

TINY = 1e-12  # a token that nobody attends to still counts in a group of such tokens


@dataclass(frozen=True)
class Parts:
    """attentive [b, k] and inattentive [b, q] tokens, all n together; pairs: (those that join, those that they join),
    both counted among the attentive; groups: those of the inattentive."""

    attentive: Tensor
    pairs: tuple[Tensor, Tensor] | None
    inattentive: Tensor
    groups: Groups

    def staying(self) -> Int[Tensor, "b s"]:
        """Attentive tokens that join no other, in order."""
        if self.pairs is None:
            return self.attentive
        return self.attentive.gather(1, others(self.pairs[0], length(self.attentive, 1)))

    def lead(self) -> Int[Tensor, "b m"]:
        """The token that each one after stands on."""
        return torch.cat([self.staying(), self.inattentive.gather(1, self.groups.lead)], dim=1)

    def moved(self) -> Int[Tensor, "b r"] | None:
        """All other tokens; None if there are none."""
        joining = [] if self.pairs is None else [self.attentive.gather(1, self.pairs[0])]
        q = length(self.inattentive, 1)
        if length(self.groups.lead, 1) < q:
            joining.append(self.inattentive.gather(1, others(self.groups.lead, q)))
        return torch.cat(joining, dim=1) if joining else None

    def group(self, lead: Int[Tensor, "b m"]) -> Int[Tensor, "b n"]:
        """The token after that each one before belongs to."""
        n = length(self.attentive, 1) + length(self.inattentive, 1)
        b, m = lead.shape[0], length(lead, 1)
        number = torch.arange(m, device=lead.device).expand(b, m)
        group = torch.zeros(b, n, dtype=torch.int64, device=lead.device).scatter(1, lead, number)
        group = group.scatter(1, self.inattentive, self.groups.group + (m - length(self.groups.lead, 1)))
        if self.pairs is None:
            return group
        source, target = (self.attentive.gather(1, half) for half in self.pairs)
        return group.scatter(1, source, group.gather(1, target))


@dataclass(frozen=True)
class MergeMax(Merge):
    """A `Merge` whose last `peaks` groups take the maximum of their members in every channel (Table 4, max pooling)."""

    peaks: int = 0

    def shrink(self, x, prefix=0):
        merged, patches = super().shrink(x, prefix), x[:, prefix:]
        index = self.group.unsqueeze(-1).expand_as(patches)
        highest = patches.new_full((x.shape[0], self.groups, x.shape[2]), float("-inf"))
        highest = highest.scatter_reduce(1, index, patches, "amax")
        return torch.cat([merged[:, : -self.peaks], highest[:, -self.peaks :]], dim=1)


def merge_parts(
    parts: Parts, importance: Float[Tensor, "b n"], normalise: bool, *, maximum: bool, scores: Float[Tensor, "b n"]
) -> Reduction:
    """The map from all tokens to the new sequence: attentive ones that stay, then one token for each group.

    importance: what members weigh in their group, unless the groups say so themselves (Eq. 8)
    normalise:  weights sum to 1 in every group
    maximum:    groups of inattentive tokens take the maximum of their members instead
    """
    lead, moved = parts.lead(), parts.moved()
    if moved is None and (normalise or parts.groups.weights is not None):
        return Keep(lead, scores=scores)
    group, m, new = parts.group(lead), length(lead, 1), length(parts.groups.lead, 1)
    weights = _weights(parts, importance, group, m, normalise)
    moved = moved if normalise else None
    if maximum:
        return MergeMax(group, weights, m, lead, moved=moved, peaks=new, scores=scores)
    return Merge(group, weights, m, lead, moved=moved, scores=scores)


def _weights(
    parts: Parts, importance: Float[Tensor, "b n"], group: Int[Tensor, "b n"], m: int, normalise: bool
) -> Float[Tensor, "b n"]:
    """Eq. 8: by importance within the group. Attentive tokens that stay alone weigh 1."""
    weights = parts.groups.weights
    importance = (
        importance if weights is None else importance.scatter(1, parts.inattentive, weights.to(importance.dtype))
    )
    share = importance.clamp(min=TINY)
    share = share / share.new_zeros(share.shape[0], m).scatter_add(1, group, share).gather(1, group)
    if normalise:
        return share
    members = share.new_zeros(share.shape[0], m).scatter_add(1, group, torch.ones_like(share)).gather(1, group)
    clustered = group >= m - length(parts.groups.lead, 1)
    joined = members > 1
    literal = joined | clustered if weights is None else joined & ~clustered
    return torch.where(literal, importance, share)
