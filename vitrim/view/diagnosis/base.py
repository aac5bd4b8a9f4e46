"""What a diagnostic is: a question to one model, answered over the batches of a data set in bounded memory."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from jaxtyping import Float
from torch import Tensor

from ...core.tokens import Tokens
from ...runtime.model import ReducedViT
from ...runtime.records import BlockTrace
from ..fates import Fates


@dataclass(frozen=True)
class Places:
    """The blocks that the diagnostics of a model look at, from 0.

    early: where tokens are found inattentive; EViT's Fig. 6 has the 4th of 12
    late:  whose attention is sorted: the last of the places that the papers cut 12 blocks at, the 10th
    last:  after which diversity is measured: the model's last place; of the dense model those of all others
    """

    early: int
    late: int
    last: tuple[int, ...]


@dataclass(frozen=True)
class Run:
    """What a model has done with one batch: its traces, and the fates of the patches of each image."""

    trace: Sequence[BlockTrace]
    fates: Sequence[Fates]


class Diagnostic:
    """One question to one model.

    name:   under which its answer is found
    title:  in words
    source: the paper, and its equation, table or figure
    tells:  how to read it, in a sentence or two

    Example: what the tokens of a model look like after its last block.
        >>> class Length(Diagnostic):
        ...     def after(self, block, tokens):
        ...         self.length = tokens.patches.norm(dim=2).mean().item()
    """

    name: ClassVar[str]
    title: ClassVar[str]
    source: ClassVar[str]
    tells: ClassVar[str]

    def __init__(self, model: ReducedViT, places: Places):
        self.model, self.body, self.places = model, model.body, places

    @classmethod
    def unfit(cls, model: ReducedViT) -> str:
        """Why it has no meaning for this model; empty: it has."""
        return ""

    def before(self, block: int, tokens: Tokens) -> None:
        """The tokens that come to a block, before any method acts in it."""

    def after(self, block: int, tokens: Tokens) -> None:
        """The tokens that are there after a block; idle and frozen ones are in their places."""

    def finish(self, run: Run) -> None:
        """A batch is through."""

    def result(self) -> Any:
        """The answer over all images."""
        raise NotImplementedError


class Means:
    """The mean over images of figures of one shape, in float64. What is NaN for an image is not counted.

    Example:
        >>> means = Means()
        >>> means.update(torch.tensor([[1.0, 2.0], [3.0, torch.nan]]))
        >>> means.mean.tolist()
        [2.0, 2.0]
    """

    def __init__(self) -> None:
        self.total, self.count = torch.zeros(()).double(), torch.zeros(())

    def update(self, values: Tensor) -> None:
        """values: [b, ...], those of each image of a batch."""
        values = values.cpu().double()
        self.total = self.total + values.nan_to_num(nan=0.0).sum(dim=0)
        self.count = self.count + (~values.isnan()).sum(dim=0)

    @property
    def mean(self) -> Tensor:
        """[...]; NaN where no image has a figure."""
        return self.total / self.count


def of_each_image(function: Callable[[Tensor], Tensor], tokens: Tokens) -> Float[Tensor, " b"]:
    """`function`, from patch tokens [k, n, c] to [k], of every image of a batch, ragged or not. NaN without a token."""

    def known(patches: Tensor) -> Tensor:
        k, n, _ = patches.shape
        return function(patches) if n else patches.new_full((k,), torch.nan, dtype=torch.float32)

    if tokens.layout is None:
        return known(tokens.patches)
    return tokens.layout.patches.pooled(lambda patches: known(patches).unsqueeze(1), tokens.patches).squeeze(1)


def stage_blocks(model: ReducedViT) -> list[int]:
    """The blocks in which a method decides: each begins a stage.

    Example:
        >>> stage_blocks(vitrim.reduce(model, "evit", keep=0.5))
        [1, 2, 3]
    """
    return [turn.block for turn in model.turns if turn.before or turn.between]


def gives_back(model: ReducedViT) -> bool:
    """Whether some tokens that a method leaves out come back later: idle or frozen ones."""
    return any(step.restore_before is not None for turn in model.turns for step in (*turn.before, *turn.between))
