"""Methods put on a model one after the other: bound to it, and refused where one would spoil the work of another."""

from __future__ import annotations

import copy
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING

from torch import nn

from ..backbones import Backbone
from ..core.schedule import Place
from ..core.values import shown
from ..methods import METHODS, Method


def as_stack(methods: Sequence[Method]) -> list[Method]:
    """Copies of the methods. Raises ValueError for what is no method."""
    wrong = [m for m in methods if not isinstance(m, Method)]
    if wrong or not methods:
        if wrong and isinstance(wrong[0], type) and issubclass(wrong[0], Method):
            name = wrong[0].__name__
            raise ValueError(f"method {name} is a class: give one of its objects, such as {name}()")
        names = ", ".join(METHODS)
        raise ValueError(
            f"method {shown(wrong[0]) if wrong else '[]'}: give a name ({names}) or a method such as EViT(keep=0.7)"
        )
    return [copy.deepcopy(m) for m in methods]


if TYPE_CHECKING:

    class Methods(nn.ModuleList):
        """The methods of a model, in the order of their stack."""

        def __iter__(self) -> Iterator[Method]: ...
        def __getitem__(self, index: int) -> Method: ...  # ty: ignore[incompatible-method-override]

else:
    Methods = nn.ModuleList


def bind_stack(body: Backbone, methods: Sequence[Method]) -> None:
    """Bind the methods to the model, each knowing its number in the stack, and make their learned parts.

    Raises ValueError where the model cannot carry a method, and where one would spoil the work of another.
    """
    for method in methods:
        body.admit(method)
    for number, method in enumerate(methods):
        method.number = number
        method.bind(body)
        body.admit_places(method)
    check_stack(methods, body.depth)
    for method in methods:
        _build(method, body)


def _build(method: Method, body: Backbone) -> None:
    """Make the learned parts, on the model's device and in its dtype."""
    method.build(body)
    like = next(body.model.parameters(), None)
    if method.learns and like is not None:
        method.to(device=like.device, dtype=like.dtype)


def check_stack(methods: Sequence[Method], depth: int) -> None:
    """Raise ValueError, with the reason, where the maps of a stack cannot follow one another."""
    taken: dict[tuple[int, str], Method] = {}
    for method in methods:
        for place in method.places:
            other = taken.setdefault((place.block, method.acts), method)
            if other is not method:
                raise ValueError(
                    f"{other.name} and {method.name} both act in block {place.block}, and the second "
                    "would see evidence of tokens that are gone: give them different blocks with at="
                )
    for method in methods:
        for place in method.places:
            _check_span(method, place, methods)
        if method.ragged:
            _check_ragged(method, methods)


def _check_ragged(method: Method, methods: Sequence[Method]) -> None:
    way_out = 'give it adaptive="batch", or ' if "adaptive" in method.option_names() else ""
    for other in methods:
        after = other.observes or any(place.block > method.places[0].block for place in other.places)
        if other is not method and (after or other.weighs):
            raise ValueError(
                f"{method.name} leaves every image a number of tokens of its own, and {other.name} "
                f"{'cannot work on such a batch' if after else 'has merged tokens, which cannot be packed so'}: "
                f"{way_out}leave one out"
            )


def _check_span(method: Method, place: Place, methods: Sequence[Method]) -> None:
    end = method.restore_before(place)
    if end is None:
        return
    for other in methods:
        inside = [p.block for p in other.places if place.block <= p.block < end and other is not method]
        if inside:
            raise ValueError(
                f"{other.name} at block {inside[0]} would act while {method.name} holds tokens outside (blocks "
                f"{place.block} to {end - 1}), and what it removes could not be put back: move {other.name}"
            )
