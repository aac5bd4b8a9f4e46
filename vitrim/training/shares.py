"""Which tokens the places of a stack have kept, each place told apart by its own method."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from ..core.masking import Mask
from ..core.tokens import Tokens
from ..methods import Method
from ..runtime.model import ReducedViT
from ..runtime.records import LossInputs, PlaceRecord
from .recipes import Weights


@dataclass(frozen=True)
class Held:
    """What the ratio loss holds a place to.

    mask:   [b, n] the tokens that it has kept, with gradient
    keep:   the share that it is to keep
    whole:  the number of tokens that this is a share of, a number or [b]
    """

    mask: Tensor
    keep: float
    whole: float | Tensor


def method_of(student: ReducedViT, place_record: PlaceRecord) -> Method:
    """The method of the stack that left this record."""
    return student.methods[place_record.index]


def learns_counts(method: Method) -> bool:
    """Whether training moves the counts that it will keep (ToFe)."""
    return type(method).update_counts is not Method.update_counts


def place_names(methods: Sequence[Method]) -> dict[tuple[Method, int], str]:
    """What the log calls each place: its block, with the method's name where two act in one block."""
    blocks = [place.block for method in methods for place in method.places]
    return {
        (method, place.index): f"{place.block}" if blocks.count(place.block) == 1 else f"{place.block} {method.name}"
        for method in methods
        for place in method.places
    }


def kept_shares(student: ReducedViT, loss_inputs: LossInputs) -> dict[str, Tensor]:
    """Share of the tokens before it that each place has kept, mean over the batch, by `place_names`; 1 where it has
    decided nothing."""
    names = place_names(student.methods)
    shares = dict.fromkeys(names.values(), loss_inputs.tokens.x.new_ones((), dtype=torch.float32))
    for place_record in loss_inputs.place_records:
        shares[names[method_of(student, place_record), place_record.place.index]] = (
            place_record.selected.detach().float().mean()
        )
    return shares


def turns_by_schedule(method: Method) -> bool:
    """Whether a schedule can turn its keep rates: it has some (ToMe has not, nor DiffRate with counts of its own), and
    training does not move them."""
    turns = "keep" in method.option_names() and any(place.keep < 1 for place in method.places)
    return turns and not learns_counts(method)


def approximates(method: Method) -> bool:
    """Whether something stands in for the blocks that its tokens outside skip (ToFe)."""
    return type(method).update_outside is not Method.update_outside


def held_by_ratio(methods: Sequence[Method], weights: Weights) -> list[Method]:
    """The methods whose keep rates the ratio loss holds: those that train masked; of a stack not those that a budget
    holds already."""
    masked = [method for method in methods if method.trains_masked] if weights.ratio else []
    free = [method for method in masked if not (weights.budget and learns_counts(method))]
    return free or masked


def held_places(student: ReducedViT, loss_inputs: LossInputs, methods: Sequence[Method]) -> list[Held]:
    """One `Held` for each place of these methods, in the order of the blocks."""
    return [
        _held(record, before, loss_inputs.tokens)
        for record, before in in_order(student, loss_inputs.place_records)
        if method_of(student, record) in methods
    ]


def _held(place_record: PlaceRecord, before: PlaceRecord | None, tokens: Tokens) -> Held:
    keep, n = place_record.place.keep, place_record.selected.shape[1]
    if place_record.place.patches is None:  # a share of the tokens that are there, not of the image's
        return Held(place_record.selected, keep, n if before is None else before.selected.detach().sum(dim=1))
    whole = patches_at(place_record, tokens)
    return Held(place_record.selected, min(keep, n / whole), whole)  # no more than there are


def in_order(
    student: ReducedViT, place_records: Sequence[PlaceRecord]
) -> Iterator[tuple[PlaceRecord, PlaceRecord | None]]:
    """Every record, in the order of the blocks, with the last one before it that has dropped tokens for good while
    all of them go on, masked."""
    before = None
    for place_record in sorted(place_records, key=lambda place_record: place_record.place.block):
        yield place_record, before
        if place_record.restore_before is None and method_of(student, place_record).masked:
            before = place_record


def frozen_tokens(
    student: ReducedViT, place_records: Sequence[PlaceRecord]
) -> Iterator[tuple[PlaceRecord, Float[Tensor, "b n"]]]:
    """The places where something stands in for the tokens left outside, and 1 for each of those tokens; a token that a
    method before has dropped for good is none of them."""
    for place_record, before in in_order(student, place_records):
        if place_record.restored is not None and approximates(method_of(student, place_record)):
            outside = (place_record.selected.detach() < 0.5).float()
            yield place_record, outside if before is None else outside * before.selected.detach()


def patches_at(place_record: PlaceRecord, tokens: Tokens) -> int:
    """All patch tokens of the image at the stage of this place; `tokens`: the final ones.

    Where the grid shrinks on the way (Swin) nothing is ever removed for good, so all of them are there.
    """
    return math.prod(tokens.grid) if _removed(tokens) else place_record.selected.shape[1]


def _removed(tokens: Tokens) -> bool:
    """Whether tokens have been removed for good on the way, by more than a mask."""
    return any(not isinstance(step.reduction, Mask) for step in tokens.steps)


def at_origin(x: Float[Tensor, "b n0 c"], tokens: Tokens) -> Float[Tensor, "b n c"]:
    """The rows, of all patches' rows, that belong to the tokens left: each the row of the patch whose position it has.
    Rows behind the last token of an image of a ragged batch mean nothing."""
    if not _removed(tokens):
        return x
    origin = tokens.origin().clamp(min=0)
    return x.gather(1, origin.unsqueeze(-1).expand(-1, -1, x.shape[-1]))


def own_counts(method: Method, loss_inputs: LossInputs) -> tuple[Float[Tensor, "b places"], list[int]]:
    """Patch tokens that each image kept at the places of one method, with gradient to the masks, and all patch tokens
    of the image there. A place that left no record decided nothing: all that are there stay."""
    found = {w.place.index: w for w in loss_inputs.place_records if w.index == method.number}
    counts, patches = [], []
    for place in method.places:
        place_record = found.get(place.index)
        patches.append(place.patches if place_record is None else patches_at(place_record, loss_inputs.tokens))
        if place_record is not None:
            counts.append(place_record.selected.sum(dim=1))
        elif counts and method.restore_before(method.places[place.index - 1]) is None:
            counts.append(counts[-1])
        else:
            counts.append(
                torch.full((loss_inputs.tokens.batch,), float(patches[-1]), device=loss_inputs.tokens.x.device)
            )
    return torch.stack(counts, dim=1), patches
