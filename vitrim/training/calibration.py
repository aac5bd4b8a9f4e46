"""ToFe's decisions without noise: as many tokens kept as training kept with it."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import ExitStack

import torch
from jaxtyping import Float
from timm.data import create_transform
from torch import Tensor

from ..core.schedule import Place
from ..data.photographs import Photographs, Unreadable
from ..methods import ToFe
from ..runtime.model import ReducedViT
from .shares import in_order, patches_at

PHOTOGRAPHS, BATCH = 256, 32


@torch.no_grad()
def calibrate(student: ReducedViT, batches: Sequence[Float[Tensor, "b 3 h w"]]) -> None:
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
            found = [_scores(student, method, place, images) for images in batches]
            known = [scores for scores, _ in found if scores is not None]
            if len(known) == len(found):
                scores = torch.cat(known)
                kept = min(place.keep * found[0][1], scores.shape[1])  # a share of all patches of the image
                method.shift(place, -between(scores.flatten(), round(kept * len(scores))))


def between(scores: Float[Tensor, " n"], kept: int) -> float:
    """A threshold that `kept` of the scores reach; -inf stands for a token that is gone."""
    ranked = scores[scores.isfinite()].sort(descending=True).values
    kept = min(max(kept, 1), len(ranked))
    below = ranked[kept] if kept < len(ranked) else ranked[-1] - 1
    return float((ranked[kept - 1] + below) / 2)


def _scores(student: ReducedViT, method: ToFe, place: Place, images: Tensor) -> tuple[Float[Tensor, "b n"] | None, int]:
    """Scores at one place, where every image has kept its own tokens at those before, and all patches of the image
    there; None: it keeps all."""
    with ExitStack() as decisions:
        for tofe in student.methods:
            if isinstance(tofe, ToFe):
                decisions.enter_context(tofe.own_decisions())
        _, trace, loss_inputs = student(images, trace=True, losses=True)
        place_records = list(in_order(student, loss_inputs.place_records))
    for place_record, before in place_records:
        if place_record.index == method.number and place_record.place.index == place.index:
            scores, patches = trace[place.block].scores, patches_at(place_record, loss_inputs.tokens)
            return scores if before is None else scores.masked_fill(before.selected == 0, float("-inf")), patches
    return None, 0


def some_of(photographs: Photographs, device: torch.device) -> list[Float[Tensor, "b 3 h w"]]:
    """Some of the training photographs, spread over all of them, prepared as at inference."""
    every = -(-len(photographs) // PHOTOGRAPHS)
    learning, photographs.transform = photographs.transform, create_transform(**photographs.config, is_training=False)
    try:
        read = [photographs[place] for place in range(0, len(photographs), every)]
    finally:
        photographs.transform = learning
    images = [sample[0] for sample in read if not isinstance(sample, Unreadable)]
    return [torch.stack(images[first : first + BATCH]).to(device) for first in range(0, len(images), BATCH)]
