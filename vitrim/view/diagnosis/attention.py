"""Where attention goes: sorted by class attention (IdleViT Fig. 4), and to tokens once found inattentive (EViT Fig. 6).

Both need [CLS]. "Class attention" is EViT's Eq. 2, the mean over heads of the [CLS] row of the attention map.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from ...core.tokens import Tokens
from ...runtime.model import ReducedViT
from .base import Diagnostic, Means, Places, gives_back

INATTENTIVE = 25  # tokens; EViT's n
BOX = (0.0, 0.25, 0.5, 0.75, 1.0)  # quantiles
NO_CLASS = "the model has no [CLS] token"


@dataclass(frozen=True)
class SortedAttention:
    """IdleViT Fig. 4: the attention map between the patch tokens that come to one block, in the order of their class
    attention, the highest first; mean over heads and images. Rows look, columns are looked at; what a row pays to
    prefix tokens is left out.

    block: whose attention it is
    map:   [n, n]
    """

    block: int
    map: Float[Tensor, "n n"]

    @property
    def from_top(self) -> float:
        """The share of their attention to patches that the more attentive half pays to itself."""
        return self._to_top(self.map[: self._half])

    @property
    def from_rest(self) -> float:
        """The share that the other half pays to the more attentive one."""
        return self._to_top(self.map[self._half :])

    @property
    def _half(self) -> int:
        return (len(self.map) + 1) // 2

    def _to_top(self, rows: Tensor) -> float:
        return (rows[:, : self._half].sum() / rows.sum()).item()


class SortedAttentions(Diagnostic):
    """IdleViT Fig. 4, over the tokens that come to block `places.late`, before a method decides in it."""

    name, title, source = "sorted_attention", "Attention sorted by class attention", "IdleViT, Fig. 4"
    tells = (
        "Who looks at whom in one block: tokens in the order of their class attention, the highest at the top left; "
        "rows look, columns are looked at. The table has the share of their attention to patches that the upper half "
        "(more class attention) and the lower half pay to the upper one; without any preference it is a half."
    )

    def __init__(self, model: ReducedViT, places: Places):
        super().__init__(model, places)
        self.means = Means()

    @classmethod
    def unfit(cls, model):
        return "" if model.body.class_tokens else NO_CLASS

    def before(self, block: int, tokens: Tokens) -> None:
        if block == self.places.late and tokens.layout is None:
            self.means.update(self._sorted(block, tokens))

    def _sorted(self, block: int, tokens: Tokens) -> Float[Tensor, "b n n"]:
        evidence, p = self.body.probe(block, tokens), tokens.prefix
        order = evidence.class_attention().argsort(dim=1, descending=True)
        rows = evidence.mean_map()[:, p:, p:].take_along_dim(order[:, :, None], dim=1)
        return rows.take_along_dim(order[:, None, :], dim=2)

    def result(self) -> SortedAttention | None:
        """None where images came to the block with numbers of tokens of their own."""
        return SortedAttention(self.places.late, self.means.mean.float()) if self.means.count.any() else None


@dataclass(frozen=True)
class InattentiveInBlock:
    """One box of EViT's Fig. 6: class attention of the tokens that an earlier block paid least, means over the images
    of their minimum, quartiles, maximum and mean; and the mean over all patches."""

    block: int
    low: float
    first: float
    median: float
    third: float
    high: float
    mean: float
    every: float


class InattentiveTokens(Diagnostic):
    """EViT Fig. 6: "we identify the n tokens with the smallest [CLS]-to-tokens attention in the 4th layer. Then we keep
    track of these selected tokens in the subsequent layers", n = 25.

    In blocks where not every patch has a token of its own (a stage of ToFe's) there is no box.
    """

    name, title, source = "inattentive", "Attention of tokens once found inattentive", "EViT, Fig. 6"
    tells = (
        f"The {INATTENTIVE} patches to which [CLS] pays least in a block a quarter of the way (the 4th of 12), and "
        "what it pays to them in every block: in the table as a multiple of what a patch gets on average; in the plot "
        "that average is the dashed line. What stays far below it could be left out."
    )

    def __init__(self, model: ReducedViT, places: Places):
        super().__init__(model, places)
        self.means = [Means() for _ in range(model.body.depth)]
        self.rows: dict[int, Tensor] = {}

    @classmethod
    def unfit(cls, model):
        if not model.body.class_tokens:
            return NO_CLASS
        stays = not model.methods or gives_back(model)
        return "" if stays else "patches that it leaves out or merges get no attention of their own"

    def before(self, block: int, tokens: Tokens) -> None:
        if tokens.layout is None and not tokens.steps and tokens.n == tokens.grid[0] * tokens.grid[1]:
            self.rows[block] = self.body.probe(block, tokens).class_attention()

    def finish(self, run) -> None:
        rows, self.rows = self.rows, {}
        if self.places.early not in rows:
            return
        chosen = rows[self.places.early]
        index = chosen.topk(min(INATTENTIVE, chosen.shape[1]), dim=1, largest=False).indices
        for block, attention in rows.items():
            self.means[block].update(_box(attention.gather(1, index), attention.mean(dim=1)))

    def result(self) -> tuple[InattentiveInBlock, ...]:
        """One for each block in which every patch has a token."""
        known = [(block, means) for block, means in enumerate(self.means) if means.count.any()]
        return tuple(InattentiveInBlock(block, *means.mean.tolist()) for block, means in known)


def _box(attention: Float[Tensor, "b k"], every: Float[Tensor, " b"]) -> Float[Tensor, "b 7"]:
    quantiles = attention.quantile(attention.new_tensor(BOX), dim=1).T
    return torch.cat([quantiles, attention.mean(dim=1, keepdim=True), every[:, None]], dim=1)
