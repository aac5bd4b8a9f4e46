"""Join: some tokens join others, which become their means; what ToMe and its kin do to a few tokens in every block.
Absorb: others are dropped meanwhile, and those that join count by how alike they are (DiffRate).

The same could be said with `Merge`, for any groups; here the few that move are all that is worked on.

Shapes: b images, p prefix tokens, n patch tokens before, m = n - r after.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import ClassVar

import torch
from jaxtyping import Float, Int
from torch import Tensor

from .recording import length, once
from .reductions import Merge, Reduction
from .rows import add_rows, behind_prefix, take_rows


@dataclass(frozen=True)
class Join(Reduction):
    """The tokens `moved` [b, r] join others; each group becomes the mean of its members, weighted by their sizes.

    lead:  [b, m] the tokens that do not move, in the order after; every group has one, and takes over its position
    moved: [b, r] the tokens that move; tokens that are in neither are dropped
    into:  [b, r] which of `lead` each of them joins
    sizes: [b, n] patches that each token stands for
    proportional: a merged token weighs as a key as much as its members together (ToMe Eq. 1)
    rescale: give the mean of a group the largest Euclidean norm among its members (ToFu): a mean of vectors that point
           apart is shorter than they are, and the next norm layer would turn noise up with it

    A token that none joins stays the same, bit for bit.

    Example:
        >>> x, sizes = torch.tensor([[[1.0], [2.0], [3.0], [4.0]]]), torch.tensor([[1.0, 1.0, 1.0, 3.0]])
        >>> join = vitrim.Join(torch.tensor([[0, 1, 2]]), torch.tensor([[3]]), torch.tensor([[1]]), sizes)
        >>> join.shrink(x).flatten().tolist(), join.shrink_size(sizes).tolist()
        ([1.0, 3.5, 3.0], [[1.0, 4.0, 1.0]])
    """

    lead: Tensor
    moved: Tensor
    into: Tensor
    sizes: Tensor
    proportional: bool = False
    rescale: bool = False

    weighs: ClassVar[bool] = True

    @property
    def total(self) -> Float[Tensor, "b m"]:
        """Sizes after."""
        return once(self, "_total", lambda: self._sum(self.sizes))

    @property
    def drops(self) -> bool:  # ty: ignore[incompatible-property-override]  # others say it once for all
        """Whether some tokens are in no group."""
        return length(self.lead, 1) + length(self.moved, 1) < length(self.sizes, 1)

    @property
    def groups(self) -> int:
        """m."""
        return length(self.lead, 1)

    def shrink(self, x, prefix=0):
        kept = take_rows(x, behind_prefix(self.lead, prefix))
        into, shares = self.into + prefix, self.shares().unsqueeze(-1).to(x.dtype)
        moved = take_rows(x, self.moved + prefix)
        # lead + share * (member - lead): exact where nobody joins.
        means = add_rows(kept, into, shares * (moved - take_rows(kept, into)))
        return self._with_norms(means, kept, moved, into) if self.rescale else means

    def _with_norms(self, means: Tensor, kept: Tensor, moved: Tensor, into: Tensor) -> Float[Tensor, "b pm c"]:
        """The means, each as long as the longest of its members; those that nobody joins as they are, bit for bit."""
        norms = kept.float().norm(dim=-1)
        longest = norms.scatter_reduce(1, into, moved.float().norm(dim=-1), "amax")
        joined = torch.zeros_like(norms).scatter(1, into, 1.0)
        scale = torch.where(joined > 0, longest / means.float().norm(dim=-1).clamp(min=1e-12), 1.0)
        return means * scale.unsqueeze(-1).to(means.dtype)

    def shares(self) -> Float[Tensor, "b r"]:
        """How much each moved token weighs in the mean of its group."""
        return self.sizes.gather(1, self.moved) / self.total.gather(1, self.into)

    def _sum(self, size: Float[Tensor, "b n"]) -> Float[Tensor, "b m"]:
        return size.gather(1, self.lead).scatter_add(1, self.into, size.gather(1, self.moved))

    def shrink_size(self, size):
        return self.total if size is self.sizes else self._sum(size)

    def shrink_key_size(self, size):
        return self.shrink_size(size) if self.proportional else super().shrink_key_size(size)

    def owners(self, n) -> Int[Tensor, "b n"]:
        b, m = self.lead.shape
        rank = torch.arange(m, device=self.lead.device).expand(b, m)
        owners = rank.new_full((b, n), -1).scatter(1, self.lead, rank)
        return owners.scatter(1, self.moved, self.into)

    def representatives(self):
        return self.lead

    def as_merge(self) -> Merge:
        """The same map written out, with the group and the weight of every token."""
        group = self.owners(length(self.sizes, 1))
        return Merge(group, self.sizes / self.total.gather(1, group), self.groups, self.lead, scores=self.scores)

    def restore(self, y, x, prefix=0):
        update = (y - self.shrink(x, prefix))[:, prefix:]
        rows = torch.cat([self.lead, self.moved], dim=1)
        patches = add_rows(x[:, prefix:], rows, torch.cat([update, take_rows(update, self.into)], dim=1))
        return torch.cat([y[:, :prefix], patches], dim=1)


@dataclass(frozen=True)
class Absorb(Join):
    """Some tokens are dropped, and some of the rest join others: each group becomes the plain mean of its members, and
    its size the leader's and what the others add to it, by how alike they are (DiffRate).

    Tokens in neither `lead` nor `moved` are dropped; all else is as in `Join`.

    similar: [b, r] how alike each moved token is to the one that it joins, from 0 to 1

    Example:
        >>> x, sizes = torch.tensor([[[1.0], [2.0], [4.0], [8.0]]]), torch.ones(1, 4)
        >>> lead, moved, into = torch.tensor([[0, 1]]), torch.tensor([[2]]), torch.tensor([[1]])
        >>> absorb = vitrim.Absorb(lead, moved, into, sizes, similar=torch.tensor([[0.5]]))
        >>> absorb.shrink(x).flatten().tolist(), absorb.shrink_size(sizes).tolist(), absorb.owners(4).tolist()
        ([1.0, 3.0], [[1.0, 1.5]], [[0, 1, 1, -1]])
    """

    similar: Tensor = field(kw_only=True)

    drops: ClassVar[bool] = True

    def shares(self) -> Float[Tensor, "b r"]:
        members = torch.ones_like(self.similar)
        count = members.new_ones(self.lead.shape).scatter_add(1, self.into, members)
        return 1 / count.gather(1, self.into)

    def _sum(self, size):
        return size.gather(1, self.lead).scatter_add(1, self.into, size.gather(1, self.moved) * self.similar)

    def as_merge(self) -> Merge:
        raise ValueError("tokens that are dropped belong to no group: this reduction is no Merge")
