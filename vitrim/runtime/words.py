"""A reduced model in a few lines: what `print(fast)` shows."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from torch import nn

from ..backbones import library_of
from ..common.text import shortened
from ..methods import Method
from .model_cost import Profile

FEW = 4  # blocks that are told one by one
PLACES = ("at", "blocks")  # options that say where a method acts, which is told anyway


def in_words(
    backbone: nn.Module, methods: Sequence[Method], cost: Profile, prediction_only: bool = False, chosen: str = ""
) -> str:
    """The model; each method with its options, the blocks where it acts and the patch tokens left there; what `auto`
    has chosen; the cost."""
    name = library_of(backbone).architecture(backbone) or type(backbone).__name__
    return "\n".join(
        [
            f"ReducedViT of {name}, {cost.patches} patch tokens",
            *(f"  {method.name}({options_in_words(method)}) {_places(method, cost)}" for method in methods),
            *(["  the last block computes class tokens alone (prediction_only)"] if prediction_only else []),
            *([f"  {chosen}"] if chosen else []),
            f"  {cost.gmacs:.3f} of {cost.dense_gmacs:.3f} GMACs ({100 * cost.share:.1f} %)",
            "  summary() shows every block",
        ]
    )


def options_in_words(method: Method) -> str:
    """The dial, and what else differs from the defaults, but for the places.

    Example:
        >>> from vitrim.runtime.words import options_in_words
        >>> options_in_words(vitrim.EViT(fuse=False))
        'keep=0.7, fuse=False'
    """
    options = {method.dial: getattr(method, method.dial), **method.options()}
    if options[method.dial] is None:  # what the method chose for this model; nothing where other options say it
        options[method.dial] = method.rates if min(place.keep for place in method.places) < 1 else None
    options = {key: value for key, value in options.items() if value is not None}
    return ", ".join(f"{key}={_brief(value)}" for key, value in options.items() if key not in PLACES)


def _brief(value: Any) -> str:
    """A value as one would type it; a model that guides the method by its class, as its weights are no words."""
    return type(value).__name__ if callable(value) else shortened(repr(value), 40)


def _places(method: Method, cost: Profile) -> str:
    """`in blocks 3, 6, 9: 139, 99, 71 left`, counted in the MLPs of these blocks."""
    blocks = [place.block for place in method.places]
    left = [cost.blocks[block].mlp_tokens for block in blocks]
    left = [n for n, before in zip(left, [None, *left], strict=False) if n != before]
    where = f"{'block' if len(blocks) == 1 else 'blocks'} {_several(blocks)}"
    return f"in {where}: {_several(left)} left"


def _several(numbers: Sequence[int]) -> str:
    few = len(numbers) <= FEW
    return ", ".join(map(str, numbers)) if few else f"{numbers[0]} to {numbers[-1]}"
