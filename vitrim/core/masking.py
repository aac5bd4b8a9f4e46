"""The masked form of a decision: all tokens stay, a mask says how much each counts.

Shapes: b images, p prefix tokens, n patch tokens, c channels.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from .reductions import Reduction


@dataclass(frozen=True)
class Mask(Reduction):
    """The training form of `Keep`: all tokens stay, `mask` [b, n] says how much each one counts (1 kept, 0 not).

    `restore` blends, so that the mask gets its gradient (ToFe Eq. 16): mask * y + (1 - mask) * x.

    Example:
        >>> x, mask = torch.tensor([[[1.0], [2.0], [3.0], [4.0]]]), vitrim.Mask(torch.tensor([[1.0, 0.0, 1.0, 0.0]]))
        >>> mask.shrink(x).shape
        torch.Size([1, 4, 1])
        >>> mask.restore(10 * x, x).flatten().tolist()
        [10.0, 2.0, 30.0, 4.0]
    """

    mask: Tensor

    def shrink(self, x, prefix=0):
        return x

    def restore(self, y, x, prefix=0):
        mask = self.mask.unsqueeze(-1).to(x.dtype)
        patches = mask * y[:, prefix:] + (1 - mask) * x[:, prefix:]
        return torch.cat([y[:, :prefix], patches], dim=1)

    def take_rest(self, x, prefix=0):
        """All patch rows: the mask weighs them when they are put back."""
        return x[:, prefix:]

    def put_rest(self, x, rows, prefix=0):
        return torch.cat([x[:, :prefix], rows], dim=1)

    def restore_note(self, inside, before):
        kept = self.mask.reshape(*self.mask.shape, *[1] * (inside.dim() - 2)) > 0.5
        return torch.where(kept, inside, before)

    def owners(self, n):
        rank = torch.arange(n, device=self.mask.device).expand(self.mask.shape[0], n)
        return torch.where(self.mask > 0.5, rank, -1)

    def representatives(self):
        return torch.arange(self.mask.shape[1], device=self.mask.device).expand(self.mask.shape)

    def shrink_size(self, size):
        return size
