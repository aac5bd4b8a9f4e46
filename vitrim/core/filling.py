"""What a pruned patch gets where features of every patch are asked for: its last features, zeros, or its last features
moved as its neighbours have been moved since (IPCV, 2025).

Shapes: b images, p prefix tokens, n patch tokens before a reduction, m after, f dropped ones, c channels.
"""

from __future__ import annotations

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from .masking import Mask
from .packing import Pack
from .precision import without_autocast
from .recording import length
from .reductions import Fuse, Reduction

FILLS = ("last", "zeros", "neighbours")
NEIGHBOURS = 10  # kept tokens whose update a dropped one takes
LARGEST = 1 << 22  # distances of one image that are held at once


def check_fill(fill: str) -> str:
    """`fill`; ValueError if it is none of those allowed.

    Example:
        >>> check_fill("mean")
        Traceback (most recent call last):
        ValueError: fill='mean': choose one of last, zeros, neighbours
    """
    if fill not in FILLS:
        raise ValueError(f"fill={fill!r}: choose one of {', '.join(FILLS)}")
    return fill


def restore_by_neighbours(
    reduction: Reduction, y: Float[Tensor, "b pm c"], x: Float[Tensor, "b pn c"], prefix: int
) -> Float[Tensor, "b pn c"]:
    """`reduction.restore(y, x)`, and the tokens that it has dropped take the mean update of the kept ones nearest to
    them: by Euclidean distance of the features x, at the place where they left. A fused token stands for so many that
    its update fits none of them: these count as dropped."""
    back = reduction.restore(y, x, prefix)
    fuses = isinstance(reduction, Fuse)
    if not (reduction.drops or fuses):
        return back
    kept = reduction.shrink(x, prefix)
    if isinstance(reduction, Pack):
        return _restore_packed(reduction, back, x, kept, y - kept)
    near, moves = kept[:, prefix:], (y - kept)[:, prefix:]
    owners = reduction.owners(length(x, 1) - prefix)
    dropped = owners == length(near, 1) - 1 if fuses else owners < 0
    near, moves = (near[:, :-1], moves[:, :-1]) if fuses else (near, moves)
    present = ~dropped if isinstance(reduction, Mask) else None  # a mask leaves all, and they do not all count
    filled = x[:, prefix:] + mean_update(x[:, prefix:], near, moves, present)
    return torch.cat([back[:, :prefix], torch.where(dropped.unsqueeze(-1), filled, back[:, prefix:])], dim=1)


def _restore_packed(reduction: Pack, back: Tensor, x: Tensor, kept: Tensor, update: Tensor) -> Tensor:
    """The same where every image has dropped a number of its own: as dense batches, filled up."""
    layout, rest = reduction.layout, reduction.take_rest(x)
    present = layout.numbers(x.device)[:, layout.prefix :] >= 0
    near, moves = (layout.pad(rows)[:, layout.prefix :] for rows in (kept, update))
    moved = mean_update(reduction.rest_layout.pad(rest), near, moves, present)
    numbers = reduction.rest_layout.numbers(x.device)
    there = numbers >= 0
    rows = rest[0].index_add(0, numbers[there], moved[there])
    return reduction.put_rest(back, rows.unsqueeze(0))


def mean_update(
    x: Float[Tensor, "b f c"],
    kept: Float[Tensor, "b m c"],
    update: Float[Tensor, "b m c"],
    present: Bool[Tensor, "b m"] | None = None,
) -> Float[Tensor, "b f c"]:
    """For every row of x the mean update of the 10 rows of `kept` nearest to it; of all, where there are fewer.

    present: the rows of `kept` that count; None: all
    """
    rows = max(1, LARGEST // max(1, length(kept, 1)))
    parts = [_mean_update(part, kept, update, present) for part in x.split(rows, dim=1)]
    return parts[0] if len(parts) == 1 else torch.cat(parts, dim=1)


def _mean_update(x: Tensor, kept: Tensor, update: Tensor, present: Tensor | None) -> Tensor:
    with without_autocast(x.device):
        near = _distances(x.detach(), kept.detach())
        if present is not None:
            near = near.masked_fill(~present.unsqueeze(1), float("inf"))
        best = torch.topk(near, min(NEIGHBOURS, length(kept, 1)), dim=2, largest=False)
        votes = best.values.isfinite().to(near.dtype)
        shares = votes / votes.sum(dim=2, keepdim=True).clamp(min=1)
        return torch.bmm(torch.zeros_like(near).scatter(2, best.indices, shares).to(update.dtype), update)


def _distances(x: Tensor, kept: Tensor) -> Float[Tensor, "b f m"]:
    """Squared, but for what is the same for a whole row; centred, so that a large common part costs no digits."""
    x, kept = (z.to(torch.promote_types(z.dtype, torch.float32)) for z in (x, kept))
    centre = kept.mean(dim=1, keepdim=True)
    x, kept = x - centre, kept - centre
    return kept.square().sum(dim=2).unsqueeze(1) - 2 * torch.bmm(x, kept.transpose(1, 2))
