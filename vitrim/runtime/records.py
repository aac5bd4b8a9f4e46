"""What can leave a forward beside the logits: traces for people, records of places for losses. No module stores it."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from jaxtyping import Float, Int
from torch import Tensor

from ..core.evidence import Evidence
from ..core.masking import Mask
from ..core.reductions import Reduction
from ..core.schedule import Place
from ..core.tokens import Tokens
from .turns import Step


@dataclass(frozen=True)
class BlockTrace:
    """What one block did, from `model(images, trace=True)`. b images, n0 patches of the image.

    block:  its number, from 0
    kept:   [b, m] patches of the image whose positions the m tokens in the block's MLP have
    owners: [b, n0] for every patch of the image the number of the token that stands for it; -1: pruned, idle or frozen
    scores: [b, n] what the decision was made from, over the n patch tokens before it; None where none was made
    mask:   [b, m] the soft keep mask of masked training, with gradient; None where all tokens count

    Example:
        >>> _, trace = vitrim.reduce(model, "evit", keep=0.5)(images, trace=True)
        >>> block = trace[1]  # the first place
        >>> block.kept.shape, block.owners.shape, block.scores.shape
        (torch.Size([2, 33]), torch.Size([2, 64]), torch.Size([2, 64]))
    """

    block: int
    kept: Int[Tensor, "b m"]
    owners: Int[Tensor, "b n0"]
    scores: Float[Tensor, "b n"] | None
    mask: Float[Tensor, "b m"] | None = None


@dataclass(frozen=True)
class PlaceRecord:
    """What one place leaves behind for the losses of training.

    index:     of the method in its stack
    restore_before: the block before which it is undone; None: never
    selected:  [b, n] keep mask over the n patch tokens before it, with gradient where it is learned
    attention: [b, p+n, p+n] the map over all of them, heads averaged, where the method's loss needs it
    restored:  [b, p+n, c] the tokens after they were put back; None if they never are
    """

    method: str
    index: int
    place: Place
    restore_before: int | None
    selected: Float[Tensor, "b n"]
    attention: Tensor | None = None
    restored: Tensor | None = None


@dataclass(frozen=True)
class LossInputs:
    """What the losses need beside the logits: the final tokens (after the norm) and what each place leaves."""

    tokens: Tokens
    place_records: tuple[PlaceRecord, ...]


@dataclass(frozen=True)
class Span:
    """A reduction that will be undone: what stood before it, and who made it."""

    outside: Tokens
    reduction: Reduction
    step: Step
    place_record: PlaceRecord | None = None


def trace_block(i: int, tokens: Tokens, span: Span | None, reduction: Reduction | None) -> BlockTrace:
    """The trace of block i, whose MLP has just run on `tokens`."""
    scores = None if reduction is None else reduction.scores
    inside = tokens if span is None else span.outside.shrink(span.reduction)
    return BlockTrace(i, inside.origin(), inside.owners(), scores, inside.mask)


def record_place(step: Step, n: int, evidence: Evidence, reduction: Reduction, losses: str) -> PlaceRecord:
    """What this place leaves for the losses, of the n patch tokens before it. `losses`: as in `Request`."""
    method = step.method
    selected = reduction.mask if isinstance(reduction, Mask) else _positions(reduction, n)
    attention = evidence.mean_map(losses) if losses != "masks" and "cut" in method.losses else None
    return PlaceRecord(method.name, method.number, step.place, step.restore_before, selected, attention)


def _positions(reduction: Reduction, n: int) -> Float[Tensor, "b n"]:
    """1 for the tokens of before whose positions the tokens of after have; as many as there are tokens after."""
    index = reduction.representatives()
    index = torch.where(index < 0, n, index)  # behind the last token of an image of a ragged batch
    return torch.zeros(index.shape[0], n + 1, device=index.device).scatter(1, index, 1.0)[:, :n]
