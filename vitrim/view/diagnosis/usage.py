"""Tokens that each image uses in each stage (ToFe Fig. 9)."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass

from ...runtime.model import ReducedViT
from .base import Diagnostic, Places, Run, stage_blocks


@dataclass(frozen=True)
class UsedInStage:
    """How many tokens images use in a stage (ToFe Fig. 9).

    block:  the first of the stage
    images: the number of images by the number of patch tokens in the MLP of that block

    Example:
        >>> stage = UsedInStage(3, {70: 1, 90: 3})
        >>> stage.mean, stage.low, stage.high
        (85.0, 70, 90)
    """

    block: int
    images: dict[int, int]

    @property
    def mean(self) -> float:
        return sum(tokens * images for tokens, images in self.images.items()) / sum(self.images.values())

    @property
    def low(self) -> int:
        return min(self.images)

    @property
    def high(self) -> int:
        return max(self.images)

    @property
    def deviation(self) -> float:
        """The standard deviation over the images."""
        squares = sum((tokens - self.mean) ** 2 * images for tokens, images in self.images.items())
        return (squares / sum(self.images.values())) ** 0.5


class TokensUsed(Diagnostic):
    """ToFe Fig. 9: the distribution of the number of tokens at each stage. Fused and merged tokens count as one."""

    name, title, source = "usage", "Tokens used in each stage", "ToFe, Fig. 9"
    tells = (
        "Patch tokens in the block with which each stage begins. Methods whose images keep numbers of their own (ATS, "
        "instance-adaptive ToFe) have a spread: simple images use fewer."
    )

    def __init__(self, model: ReducedViT, places: Places):
        super().__init__(model, places)
        self.counts = {block: Counter[int]() for block in stage_blocks(model)}

    @classmethod
    def unfit(cls, model):
        return "" if stage_blocks(model) else "nothing is reduced"

    def finish(self, run: Run) -> None:
        for block, counter in self.counts.items():
            counter.update((run.trace[block].kept >= 0).sum(dim=1).tolist())

    def result(self) -> tuple[UsedInStage, ...]:
        return tuple(UsedInStage(block, dict(sorted(counter.items()))) for block, counter in self.counts.items())
