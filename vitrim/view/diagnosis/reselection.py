"""Re-selected tokens: what a method leaves out and takes up again (IdleViT Table 4, ToFe Table VII)."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Bool
from torch import Tensor

from ...runtime.model import ReducedViT
from ..fates import Fate
from .base import Diagnostic, Means, Places, Run, gives_back, stage_blocks


@dataclass(frozen=True)
class Reselection:
    """Table 4 of IdleViT's supplement: shares of all patches of an image, in [0, 1], means over the images.

    anywhere: P(A), patches that some block selects after an earlier one did not
    last:     P(R), those that the last block selects, after an earlier one did not
    selected: P(L), patches that the last block selects
    """

    anywhere: float
    last: float
    selected: float

    @property
    def ratio(self) -> float:
        """R(L) = P(R) / P(L), re-selected ones among those that the last block selects. NaN where it selects none."""
        return self.last / self.selected if self.selected else float("nan")


def reselected(selected: Bool[Tensor, "b blocks n"]) -> Bool[Tensor, "b blocks n"]:
    """Patches that a block selects after an earlier one did not: "not selected in several intermediate layers but
    re-selected by IdleViT in one or more subsequent layers" (IdleViT, supplement C).

    Example: one patch that is left out by the second of three blocks.
        >>> reselected(torch.tensor([[[True], [False], [True]]])).flatten().tolist()
        [False, False, True]
    """
    left_out = (~selected).int().cumsum(dim=1) > 0
    return selected & left_out


def selected_in(run: Run) -> Bool[Tensor, "b blocks n"]:
    """Patches that have a token of their own in the MLP of a block."""
    codes = torch.from_numpy(np.stack([fates.codes for fates in run.fates])).flatten(2)
    return (codes == Fate.WORK) | (codes == Fate.BACK)


class Reselections(Diagnostic):
    """IdleViT Table 4 (supplement). A patch is selected in a block where it has a token of its own in the MLP."""

    name, title, source = "reselection", "Re-selected patches", "IdleViT, supplement, Table 4"
    tells = (
        "P(A): patches, of all, that a block selects after an earlier one left them out; P(R): those that the last "
        "block selects so; P(L): patches that it selects; R(L) = P(R) / P(L). The more, the more early choices are "
        "undone."
    )

    def __init__(self, model: ReducedViT, places: Places):
        super().__init__(model, places)
        self.shares = Means()

    @classmethod
    def unfit(cls, model):
        return "" if gives_back(model) else "no token that it leaves out comes back"

    def finish(self, run: Run) -> None:
        selected = selected_in(run)
        back = reselected(selected)
        every = torch.stack([back.any(dim=1), back[:, -1], selected[:, -1]], dim=1)
        self.shares.update(every.double().mean(dim=2))

    def result(self) -> Reselection:
        return Reselection(*self.shares.mean.tolist())


@dataclass(frozen=True)
class ReusedInStage:
    """A row of ToFe's Table VII: means over the images.

    block:     the first of the stage
    remaining: tokens at work in it, fused ones and representatives not counted
    reused:    those of them that were left out in the stage before
    """

    block: int
    remaining: float
    reused: float

    @property
    def ratio(self) -> float:
        """Reused ones among the remaining. NaN where none remain."""
        return self.reused / self.remaining if self.remaining else float("nan")


class ReusedTokens(Diagnostic):
    """ToFe Table VII. A stage begins with every decision: in ToFe's with a selector, in IdleViT's with every block."""

    name, title, source = "reuse", "Reused tokens in each stage", "ToFe, Table VII"
    tells = (
        "Tokens at work in a stage, and those of them that were frozen (ToFe) or idle (IdleViT: each block is a stage) "
        "in the stage before."
    )

    def __init__(self, model: ReducedViT, places: Places):
        super().__init__(model, places)
        self.blocks, self.counts = stage_blocks(model), Means()

    @classmethod
    def unfit(cls, model):
        return "" if gives_back(model) else "no token that it leaves out comes back"

    def finish(self, run: Run) -> None:
        selected = selected_in(run)[:, self.blocks]
        before = torch.cat([torch.ones_like(selected[:, :1]), selected[:, :-1]], dim=1)
        self.counts.update(torch.stack([selected, selected & ~before], dim=3).sum(dim=2).double())

    def result(self) -> tuple[ReusedInStage, ...]:
        rows = self.counts.mean.tolist()
        return tuple(ReusedInStage(block, *row) for block, row in zip(self.blocks, rows, strict=True))
