"""ToFe's decisions without noise: as many tokens kept as training kept with it."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from jaxtyping import Float
from timm.data import create_transform
from torch import Tensor

from ..data.photographs import Photographs, Unreadable
from ..methods import ToFe
from ..runtime.model import ReducedViT

PHOTOGRAPHS, BATCH = 256, 32


@torch.no_grad()
def settle(student: ReducedViT, batches: Sequence[Float[Tensor, "b 3 h w"]]) -> None:
    """Shift the selectors' biases so that instance-adaptive inference keeps, on the mean over these images, the shares
    of tokens that were learned.

    Training draws every decision with Gumbel noise (ToFe Eq. 9), inference takes the likelier one: a selector that
    gives every token a third keeps a third of them with noise and none without. Ranks stay, so batch-adaptive
    inference stays as it is. Stage by stage: what one freezes changes the scores of the next.
    batches: images as at inference, normalised
    """
    student.eval()
    for method in student.methods:
        for place in method.places if isinstance(method, ToFe) else ():
            found = [_scores(student, method, place.block, images) for images in batches]
            if all(scores is not None for scores in found):
                scores = torch.cat(found)
                method.shift(place, -between(scores.flatten(), round(place.keep * scores.numel())))


def between(scores: Float[Tensor, " n"], kept: int) -> float:
    """A threshold that `kept` of the scores reach; -inf stands for a token that is gone."""
    ranked = scores[scores.isfinite()].sort(descending=True).values
    kept = min(max(kept, 1), len(ranked))
    below = ranked[kept] if kept < len(ranked) else ranked[-1] - 1
    return float((ranked[kept - 1] + below) / 2)


def _scores(student: ReducedViT, method: ToFe, block: int, images: Tensor) -> Float[Tensor, "b n"] | None:
    """Scores at one place, where every image has kept its own tokens at those before; None: it keeps all."""
    with method.own_decisions():
        _, trace = student(images, trace=True)
    scores = trace[block].scores
    if scores is None or method.reuse or block == 0 or trace[block - 1].mask is None:
        return scores
    return scores.masked_fill(trace[block - 1].mask == 0, float("-inf"))


def some_of(photographs: Photographs, device: torch.device) -> list[Float[Tensor, "b 3 h w"]]:
    """Some of the training photographs, spread over all of them, prepared as at inference."""
    every = -(-len(photographs) // PHOTOGRAPHS)
    learning, photographs.transform = photographs.transform, create_transform(**photographs.config, is_training=False)
    try:
        read = [photographs[place] for place in range(0, len(photographs), every)]
    finally:
        photographs.transform = learning
    images = [one[0] for one in read if not isinstance(one, Unreadable)]
    return [torch.stack(images[first : first + BATCH]).to(device) for first in range(0, len(images), BATCH)]
