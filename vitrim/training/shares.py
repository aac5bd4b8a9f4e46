"""Which tokens the places of a stack have kept, each place told apart by its own method."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from ..core.reductions import Mask
from ..core.tokens import Tokens
from ..methods import Method
from ..runtime.model import ReducedViT
from ..runtime.records import Learning, Witness
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


def method_of(student: ReducedViT, witness: Witness) -> Method:
    """The method of the stack that left this witness."""
    return student.methods[witness.index]


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


def kept_shares(student: ReducedViT, learned: Learning) -> dict[str, Tensor]:
    """Share of the tokens before it that each place has kept, mean over the batch, by `place_names`; 1 where it has
    decided nothing."""
    names = place_names(student.methods)
    shares = dict.fromkeys(names.values(), learned.tokens.x.new_ones((), dtype=torch.float32))
    for witness in learned.witnesses:
        shares[names[method_of(student, witness), witness.place.index]] = witness.selected.detach().float().mean()
    return shares


def turns_by_schedule(method: Method) -> bool:
    """Whether a schedule can turn its keep rates: it has some (ToMe has not), and training does not move them."""
    return "keep" in method.option_names() and not learns_counts(method)


def approximates(method: Method) -> bool:
    """Whether something stands in for the blocks that its tokens outside skip (ToFe)."""
    return type(method).thaw is not Method.thaw


def held_by_ratio(methods: Sequence[Method], weights: Weights) -> list[Method]:
    """The methods whose keep rates the ratio loss holds: those that train masked; of a stack not those that a budget
    holds already."""
    masked = [method for method in methods if method.trains_masked] if weights.ratio else []
    free = [method for method in masked if not (weights.budget and learns_counts(method))]
    return free or masked


def held_places(student: ReducedViT, learned: Learning, methods: Sequence[Method]) -> list[Held]:
    """One `Held` for each place of these methods, in the order of the blocks."""
    ways = ((method_of(student, witness), witness, before) for witness, before in in_order(student, learned.witnesses))
    return [_held(method, *rest, learned.tokens) for method, *rest in ways if method in methods]


def _held(method: Method, witness: Witness, before: Witness | None, tokens: Tokens) -> Held:
    keep, n = witness.place.keep, witness.selected.shape[1]
    if not method.share_of_all:
        return Held(witness.selected, keep, n if before is None else before.selected.detach().sum(dim=1))
    whole = patches_at(witness, tokens)
    return Held(witness.selected, min(keep, n / whole), whole)  # no more than there are


def in_order(student: ReducedViT, witnesses: Sequence[Witness]) -> Iterator[tuple[Witness, Witness | None]]:
    """Every witness, in the order of the blocks, with the last one before it that has dropped tokens for good while
    all of them go on, masked."""
    before = None
    for witness in sorted(witnesses, key=lambda witness: witness.place.block):
        yield witness, before
        if witness.until is None and method_of(student, witness).masked:
            before = witness


def frozen_tokens(student: ReducedViT, witnesses: Sequence[Witness]) -> Iterator[tuple[Witness, Float[Tensor, "b n"]]]:
    """The places where something stands in for the tokens left outside, and 1 for each of those tokens; a token that a
    method before has dropped for good is none of them."""
    for witness, before in in_order(student, witnesses):
        if witness.restored is not None and approximates(method_of(student, witness)):
            outside = (witness.selected.detach() < 0.5).float()
            yield witness, outside if before is None else outside * before.selected.detach()


def patches_at(witness: Witness, tokens: Tokens) -> int:
    """All patch tokens of the image at the stage of this place; `tokens`: the final ones.

    Where the grid shrinks on the way (Swin) nothing is ever removed for good, so all of them are there.
    """
    return math.prod(tokens.grid) if _removed(tokens) else witness.selected.shape[1]


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


def own_counts(method: Method, learned: Learning) -> tuple[Float[Tensor, "b places"], list[int]]:
    """Patch tokens that each image kept at the places of one method, with gradient to the masks, and all patch tokens
    of the image there. A place that left no witness decided nothing: all that are there stay."""
    found = {w.place.index: w for w in learned.witnesses if w.index == method.number}
    counts, patches = [], []
    for place in method.places:
        witness = found.get(place.index)
        patches.append(place.patches if witness is None else patches_at(witness, learned.tokens))
        if witness is not None:
            counts.append(witness.selected.sum(dim=1))
        elif counts and method.until(method.places[place.index - 1]) is None:
            counts.append(counts[-1])
        else:
            counts.append(torch.full((learned.tokens.batch,), float(patches[-1]), device=learned.tokens.x.device))
    return torch.stack(counts, dim=1), patches
