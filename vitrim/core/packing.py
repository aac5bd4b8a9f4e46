"""Packed ragged batches: the images of one batch keep different numbers of tokens, and no padding stands between them.

The rows of all images lie one after the other in one [1, T, c] tensor, so that every linear layer and norm sees T rows;
only attention and pooling ask where an image begins. A dense batch is the case of equal lengths.

Shapes: b images, p prefix tokens, n patch tokens before (the largest number, where images differ), T rows.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from itertools import accumulate, groupby

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float, Int
from torch import Tensor

from .reductions import Reduction


@dataclass(frozen=True)
class Layout:
    """Where in T rows each image lies.

    Images of equal length are neighbours, a bucket, so that they are one dense batch without a copy.

    lengths: rows of each image, in the order in which they lie; none is 0
    order:   the number in the batch of each of them
    prefix:  p, the first rows of every image
    batch:   b, images in the batch; where an image has no row at all, more than `lengths`
    """

    lengths: tuple[int, ...]
    order: tuple[int, ...]
    prefix: int
    batch: int

    @cached_property
    def starts(self) -> tuple[int, ...]:
        """The first row of each image, and T."""
        return (0, *accumulate(self.lengths))

    @cached_property
    def back(self) -> tuple[int, ...]:
        """Where in `lengths` each image of the batch stands; for layouts in which none is missing."""
        return tuple(sorted(range(self.batch), key=self.order.__getitem__))

    @cached_property
    def buckets(self) -> tuple[tuple[int, int], ...]:
        """(images, rows of each) of the runs of neighbours with equal length; one of no image where there is none."""
        if not self.lengths:
            return ((0, self.prefix + 1),)
        return tuple((len(list(run)), length) for length, run in groupby(self.lengths))

    @cached_property
    def sizes(self) -> tuple[int, ...]:
        """Rows of each bucket."""
        return tuple(images * length for images, length in self.buckets)

    @property
    def longest(self) -> int:
        """Rows of the longest image; of none, the prefix alone."""
        return max(self.lengths, default=self.prefix)

    def cumulative(self, device: torch.device) -> Int[Tensor, " b1"]:
        """Cumulative lengths, from 0 to T, as variable-length kernels take them."""
        known = self.__dict__.setdefault("_cumulative", {})  # one copy to the device for all blocks of a stage
        if device not in known:
            known[device] = torch.tensor(self.starts, dtype=torch.int32, device=device)
        return known[device]

    def numbers(self, device: torch.device) -> Int[Tensor, "b longest"]:
        """The row of each image's j-th token, in the order of the batch; -1 behind its last."""
        out = torch.full((self.batch, self.longest), -1)
        for image, start, length in zip(self.order, self.starts, self.lengths, strict=False):
            out[image, :length] = torch.arange(start, start + length)
        return out.to(device)

    @torch.compiler.disable
    def prefix_rows(self, x: Float[Tensor, "1 t c"]) -> Float[Tensor, "b p c"]:
        """The prefix tokens of every image, in the order of the batch."""
        first = torch.tensor([self.starts[j] for j in self.back], dtype=torch.int64, device=x.device).unsqueeze(1)
        rows = first + torch.arange(self.prefix, device=x.device)
        return x[0].index_select(0, rows.flatten()).unflatten(0, (self.batch, self.prefix))

    def patch_rows(self, x: Float[Tensor, "1 t c"]) -> Float[Tensor, "1 tp c"]:
        """The patch tokens of all images, with the layout `patches`."""
        if not self.prefix:
            return x
        rows = torch.cat([torch.arange(start + self.prefix, end) for start, end in self._spans()])
        return x.index_select(1, rows.to(x.device))

    def _spans(self) -> zip:
        return zip(self.starts[:-1], self.starts[1:], strict=True)

    @cached_property
    def patches(self) -> Layout:
        """The layout of the patch tokens alone."""
        return Layout(tuple(length - self.prefix for length in self.lengths), self.order, 0, self.batch)

    def split(self, x: Float[Tensor, "1 t c"]) -> list[Float[Tensor, "k length c"]]:
        """Every bucket as a dense batch, a view of x."""
        parts = x[0].split(self.sizes)
        return [part.unflatten(0, bucket) for part, bucket in zip(parts, self.buckets, strict=True)]

    def each(self, function: Callable[[Tensor], Tensor], x: Float[Tensor, "1 t c"]) -> Float[Tensor, "1 t d"]:
        """`function` on every bucket, for what looks at an image as a whole and leaves its rows in place."""
        return torch.cat([function(part).flatten(0, 1) for part in self.split(x)]).unsqueeze(0)

    @torch.compiler.disable
    def pooled(self, function: Callable[[Tensor], Tensor], x: Float[Tensor, "1 t c"]) -> Float[Tensor, "b d"]:
        """`function`, from [k, length, c] to [k, d], on every bucket; in the order of the batch."""
        rows = torch.cat([function(part) for part in self.split(x)])
        return rows.index_select(0, torch.tensor(self.back, dtype=torch.int64, device=x.device))

    def pad(self, x: Float[Tensor, "1 t c"], value: float = 0.0) -> Float[Tensor, "b longest c"]:
        """As a dense batch, in its order, `value` behind each image's last token."""
        numbers = self.numbers(x.device)
        rows = F.pad(x[0], (0, 0, 0, 1), value=value)  # the row -1
        return rows[numbers]


@dataclass(frozen=True)
class Pack(Reduction):
    """Keep another number of tokens in every image: the kept rows of all images as one ragged batch.

    kept:   [b, n] True for the patch tokens that stay
    rows:   [T] the rows that stay, prefix tokens included, among all b * (p+n) rows (T' rows, if ragged before)
    layout: how they lie
    rest:   [F] the other rows
    rest_layout: how those lie
    """

    kept: Tensor
    rows: Tensor
    layout: Layout
    rest: Tensor
    rest_layout: Layout

    def shrink(self, x, prefix=0):
        return x.reshape(-1, x.shape[-1]).index_select(0, self.rows).unsqueeze(0)

    def restore(self, y, x, prefix=0):
        return self._put(x, self.rows, y)

    def take_rest(self, x, prefix=0):
        return x.reshape(-1, x.shape[-1]).index_select(0, self.rest).unsqueeze(0)

    def put_rest(self, x, rows, prefix=0):
        return self._put(x, self.rest, rows)

    def _put(self, x: Tensor, index: Tensor, rows: Tensor) -> Tensor:
        flat = x.reshape(-1, x.shape[-1]).index_copy(0, index, rows[0].to(x.dtype))
        return flat.reshape(x.shape)

    def owners(self, n):
        return torch.where(self.kept, self.kept.cumsum(dim=1) - 1, -1)

    def representatives(self):
        """[b, m], m the largest number kept; -1 behind an image's last."""
        n = self.kept.shape[1]
        number = torch.arange(n, device=self.kept.device)
        index = torch.where(self.kept, number, n).sort(dim=1).values[:, : self.layout.longest - self.layout.prefix]
        return torch.where(index == n, -1, index)


@torch.compiler.disable  # shapes that depend on the images: compiled around, not through
def pack(
    kept: Bool[Tensor, "b n"], prefix: int, before: Layout | None = None, scores: Float[Tensor, "b n"] | None = None
) -> Pack:
    """The ragged batch of the tokens `kept` and the prefix tokens.

    before: the layout of the tokens, if they are ragged already; `kept` is False behind an image's last token
    Reads the counts on the host: a batch of another spread has other shapes.
    """
    stays = F.pad(kept, (prefix, 0), value=True)
    every = torch.arange(stays.numel(), device=kept.device).view(stays.shape)
    numbers = before.numbers(kept.device) if before else every
    goes = ~stays & (numbers >= 0)
    counts = torch.stack([stays.sum(dim=1), goes.sum(dim=1)]).tolist()
    rows, layout = _lay(stays, numbers, counts[0], prefix)
    rest, rest_layout = _lay(goes, numbers, counts[1], 0)
    return Pack(kept, rows, layout, rest, rest_layout, scores=scores)


def _lay(chosen: Tensor, numbers: Tensor, counts: list[int], prefix: int) -> tuple[Tensor, Layout]:
    """The numbers of the chosen tokens image by image, in the order of their counts, and their layout."""
    order = sorted(range(len(counts)), key=counts.__getitem__)
    by_length = torch.tensor(order, dtype=torch.int64, device=chosen.device)
    index = chosen.index_select(0, by_length).flatten().nonzero().squeeze(1)
    present = tuple(image for image in order if counts[image])
    layout = Layout(tuple(counts[image] for image in present), present, prefix, len(order))
    return numbers.index_select(0, by_length).flatten().index_select(0, index), layout
