"""How alike tokens become: over-smoothing by layer (IdleViT Fig. 5), and diversity (BAT Eq. 4, Fig. 4)."""

from __future__ import annotations

from functools import partial

from ...core.tokens import Tokens
from ...runtime.model import ReducedViT
from ..diagnostics import diversity_score, mean_cosine
from .base import Diagnostic, Means, Places, of_each_image, stage_blocks


class Similarity(Diagnostic):
    """IdleViT Fig. 5: "the average cosine similarity of image tokens in each layer", of the tokens that are there after
    it. Idle and frozen tokens are; prefix tokens are not looked at."""

    name, title, source = "similarity", "Cosine similarity of tokens", "IdleViT, Fig. 5"
    tells = (
        "The mean cosine between two patch tokens of an image after each block. Near 1 all tokens say the same: the "
        "model over-smooths. Idle and frozen tokens count where they wait."
    )

    def __init__(self, model: ReducedViT, places: Places):
        super().__init__(model, places)
        self.means = [Means() for _ in range(model.body.depth)]

    def after(self, block: int, tokens: Tokens) -> None:
        self.means[block].update(of_each_image(mean_cosine, tokens))

    def result(self) -> tuple[float, ...]:
        """One for each block."""
        return tuple(means.mean.item() for means in self.means)


class Diversity(Diagnostic):
    """BAT Eq. 4, r(Z) = || Z - 1 z^T ||_1 with the token z of Z that makes it smallest, divided by || Z ||_1 as in its
    Fig. 4: "obtained at the final pruning layer", here after the block of a model's last place."""

    name, title, source = "diversity", "Diversity of tokens", "BAT, Eq. 4 and Fig. 4"
    tells = (
        "How far the tokens that are there are from all being one, || Z - 1 z^T ||_1 / || Z ||_1, after the block of a "
        "method's last place; beside it the dense model's after the same block. BAT finds that accuracy goes with it."
    )

    def __init__(self, model: ReducedViT, places: Places):
        super().__init__(model, places)
        self.means = {block: Means() for block in places.last}

    @classmethod
    def unfit(cls, model):
        return "" if stage_blocks(model) or not model.methods else "nothing is reduced"

    def after(self, block: int, tokens: Tokens) -> None:
        if block in self.means:
            self.means[block].update(of_each_image(partial(diversity_score, relative=True), tokens))

    def result(self) -> dict[int, float]:
        """By block."""
        return {block: means.mean.item() for block, means in self.means.items()}
