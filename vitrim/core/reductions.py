"""Reductions: "N tokens become M", as indices and weights only.

A reduction knows nothing of features: `shrink(x)` applies the map to whatever travels with the tokens, `restore(y, x)`
undoes it. The first `prefix` rows ([CLS], distillation token, registers) always stay, in front.

Shapes: b images, p prefix tokens, n patch tokens before, m after, c channels.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import ClassVar

import torch
from jaxtyping import Float, Int
from torch import Tensor

from .recording import laid_out, once
from .rows import add_rows, behind_prefix, put_rows, take_rows


@dataclass(frozen=True)
class Reduction:
    """Base of all maps from n patch tokens to m, in each of b images.

    `scores` [b, n] are what the decision was made from; they are kept for traces only.
    Raises NotImplementedError for what a subclass does not define.

    Example:
        >>> x = torch.tensor([[[1.0], [2.0], [3.0], [4.0]]])  # one prefix token, three patch tokens, one channel
        >>> vitrim.Keep(torch.tensor([[0, 2]])).shrink(x, prefix=1).flatten().tolist()
        [1.0, 2.0, 4.0]
    """

    scores: Tensor | None = field(default=None, kw_only=True, repr=False)

    drops: ClassVar[bool] = True  # whether some tokens before it may have no owner after
    weighs: ClassVar[bool] = False  # whether tokens after it weigh more than one patch in pooling
    proportional = False  # whether they weigh as many as keys, too (ToMe's proportional attention); a field of `Merge`

    def shrink(self, x: Float[Tensor, "b pn c"], prefix: int = 0) -> Float[Tensor, "b pm c"]:
        """Apply the map to the patch rows of x; the `prefix` rows in front stay."""
        raise NotImplementedError

    def restore(self, y: Float[Tensor, "b pm c"], x: Float[Tensor, "b pn c"], prefix: int = 0):
        """Undo the map: x is what stood before `shrink`, y what became of the shrunk tokens.

        Every token of x takes the update of the token that owns it; tokens without an owner stay as they were in x.
        The prefix rows are y's.
        """
        raise NotImplementedError

    def take_rest(self, x: Float[Tensor, "b pn c"], prefix: int = 0) -> Float[Tensor, "b f c"]:
        """The patch rows of x that the map leaves outside, for methods that work on them meanwhile."""
        raise NotImplementedError(f"{type(self).__name__} does not know which tokens it leaves outside")

    def put_rest(self, x: Float[Tensor, "b pn c"], rows: Float[Tensor, "b f c"], prefix: int = 0):
        """A copy of x in which `rows` stand in the place of what `take_rest` took."""
        raise NotImplementedError(f"{type(self).__name__} does not know which tokens it leaves outside")

    def owners(self, n: int) -> Int[Tensor, "b n"]:
        """For each of the n tokens before, the index of the token after that stands for it; -1 where none does."""
        raise NotImplementedError

    def representatives(self) -> Int[Tensor, "b m"]:
        """For each token after, the token before whose position (and rotary rows) it takes over."""
        raise NotImplementedError

    def shrink_size(self, size: Float[Tensor, "b n"]) -> Float[Tensor, "b m"]:
        """How many patches each token weighs after the map."""
        raise NotImplementedError

    def shrink_key_size(self, size: Float[Tensor, "b n"]) -> Float[Tensor, "b m"]:
        """How much each token weighs as a key after the map: what the token weighed whose position it takes over."""
        return take_rows(size, self.representatives())

    def restore_note(self, inside: Float[Tensor, "b m *c"], before: Float[Tensor, "b n *c"]) -> Float[Tensor, "b n *c"]:
        """Undo the map on what a method carries for each token: tokens left outside have what they had before."""
        return before


@dataclass(frozen=True)
class Keep(Reduction):
    """Keep the tokens `index` [b, m], in that order. The others are dropped, or put back later by `restore`.

    rest: [b, n-m] those others, for methods that work on them meanwhile

    Example:
        >>> x, keep = torch.tensor([[[1.0], [2.0], [3.0], [4.0]]]), vitrim.Keep(torch.tensor([[0, 2]]))
        >>> keep.shrink(x).flatten().tolist()
        [1.0, 3.0]
        >>> keep.restore(10 * keep.shrink(x), x).flatten().tolist()
        [10.0, 2.0, 30.0, 4.0]
    """

    index: Tensor
    rest: Tensor | None = None

    def shrink(self, x, prefix=0):
        return take_rows(x, self._rows(prefix))

    def restore(self, y, x, prefix=0):
        return put_rows(x, self._rows(prefix), y)

    def _rows(self, prefix: int) -> Int[Tensor, "b pm"]:
        """Rows that stay; asked for up to three times."""
        return once(self, f"_rows_{prefix}", lambda: behind_prefix(self.index, prefix))

    def take_rest(self, x, prefix=0):
        return take_rows(x, self._left_out() + prefix)

    def put_rest(self, x, rows, prefix=0):
        return put_rows(x, self._left_out() + prefix, rows)

    def _left_out(self) -> Tensor:
        if self.rest is None:
            raise ValueError("this reduction does not know the tokens that it leaves out: give Keep(index, rest)")
        return self.rest

    def restore_note(self, inside, before):
        return put_rows(before, self.index, inside)

    def owners(self, n):
        b, m = self.index.shape
        rank = torch.arange(m, device=self.index.device).expand(b, m)
        return torch.full((b, n), -1, device=self.index.device).scatter(1, self.index, rank)

    def representatives(self):
        return self.index

    def shrink_size(self, size):
        return take_rows(size, self.index)


@dataclass(frozen=True)
class Fuse(Reduction):
    """Keep `index` [b, m-1] and append one token, the sum of all tokens weighted by `weights` [b, n] (0 on the kept).

    The fused token is the owner of every token it stands for, but weighs 1 in pooling and attention (EViT).

    Example:
        >>> x, weights = torch.tensor([[[1.0], [2.0], [3.0], [4.0]]]), torch.tensor([[0.0, 0.5, 0.0, 0.5]])
        >>> vitrim.Fuse(torch.tensor([[0, 2]]), weights).shrink(x).flatten().tolist()
        [1.0, 3.0, 3.0]
    """

    index: Tensor
    weights: Tensor

    drops: ClassVar[bool] = False

    def _kept(self) -> Keep:
        return Keep(self.index)

    def shrink(self, x, prefix=0):
        kept = take_rows(x, self.index + prefix)
        return torch.cat([x[:, :prefix], kept, self._fused(x, prefix)], dim=1)

    def _fused(self, x: Tensor, prefix: int) -> Tensor:
        return torch.bmm(self.weights.unsqueeze(1).to(x.dtype), x[:, prefix:])

    def restore(self, y, x, prefix=0):
        update = y[:, -1:] - self._fused(x, prefix)
        moved = torch.cat([x[:, :prefix], x[:, prefix:] + update], dim=1)
        return self._kept().restore(laid_out(y[:, :-1]), moved, prefix)

    def restore_note(self, inside, before):
        return put_rows(before, self.index, inside[:, :-1])

    def owners(self, n):
        kept = self._kept().owners(n)
        return torch.where(kept < 0, self.index.shape[1], kept)

    def representatives(self):
        return torch.cat([self.index, self.weights.argmax(dim=1, keepdim=True)], dim=1)

    def shrink_size(self, size):
        return torch.cat([self._kept().shrink_size(size), size.new_ones(size.shape[0], 1)], dim=1)


@dataclass(frozen=True)
class Merge(Reduction):
    """Merge tokens in groups: `group` [b, n] is the group of each token, `weights` [b, n] its weight there.

    Each of the `groups` tokens after is the weighted sum of its members; weights that sum to 1 within a group keep the
    scale of a token. `lead` [b, m] names the member whose position the group takes over.

    `moved` [b, n-m], for groups whose weights sum to 1: the members that do not lead. Where they are
    given, only these rows are added, onto their leads; a token alone in its group stays the same, bit for bit.

    `proportional`: a merged token weighs as a key as much as its members together (ToMe Eq. 1).

    Example:
        >>> x, group = torch.tensor([[[1.0], [2.0], [3.0], [4.0]]]), torch.tensor([[0, 0, 1, 1]])
        >>> merge = vitrim.Merge(group, torch.full((1, 4), 0.5), groups=2, lead=torch.tensor([[0, 2]]))
        >>> merge.shrink(x).flatten().tolist()
        [1.5, 3.5]
    """

    group: Tensor
    weights: Tensor
    groups: int
    lead: Tensor
    moved: Tensor | None = None
    proportional: bool = False

    drops: ClassVar[bool] = False
    weighs: ClassVar[bool] = True

    def _sum(self, rows: Tensor) -> Tensor:
        out = rows.new_zeros(rows.shape[0], self.groups, *rows.shape[2:])
        index = self.group.view(*self.group.shape, *[1] * (rows.dim() - 2)).expand_as(rows)
        return out.scatter_add(1, index, rows)

    def _move(self, x: Tensor, moved: Tensor, prefix: int) -> Tensor:
        """The leads, each moved towards its other members: lead + sum of weight * (member - lead)."""
        kept = take_rows(x, behind_prefix(self.lead, prefix))
        target = take_rows(self.group, moved) + prefix
        weights = take_rows(self.weights, moved).unsqueeze(-1).to(x.dtype)
        return add_rows(kept, target, weights * (take_rows(x, moved + prefix) - take_rows(kept, target)))

    def shrink(self, x, prefix=0):
        if self.moved is not None:
            return self._move(x, self.moved, prefix)
        merged = self._sum(x[:, prefix:] * self.weights.unsqueeze(-1).to(x.dtype))
        return torch.cat([x[:, :prefix], merged], dim=1)

    def restore(self, y, x, prefix=0):
        update = (y - self.shrink(x, prefix))[:, prefix:]
        patches = x[:, prefix:] + take_rows(update, self.group)
        return torch.cat([y[:, :prefix], patches], dim=1)

    def owners(self, n):
        return self.group

    def representatives(self):
        return self.lead

    def shrink_size(self, size):
        return self._sum(size)

    def shrink_key_size(self, size):
        return self._sum(size) if self.proportional else super().shrink_key_size(size)
