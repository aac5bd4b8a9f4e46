"""`reduce`: put token reduction on a model."""

from __future__ import annotations

import copy as copying
import warnings
from collections.abc import Sequence
from typing import Any

from torch import nn

from ..backbones import Backbone, find_family
from ..backbones.admission import warn_of_unseen
from ..backbones.layers import own_copy
from ..core.schedule import Place
from ..methods import METHODS, Method
from .cost import plan_macs, solve_dial
from .model import ReducedViT, unwrap


class UntrainedWarning(UserWarning):
    """A method's learned parts are random: its decisions mean nothing before training."""


def reduce(
    model: nn.Module,
    method: str | Method | Sequence[Method],
    *,
    macs: float | None = None,
    dial: str | None = None,
    copy: bool = False,
    **options: Any,
) -> ReducedViT:
    """A supported timm model with token reduction: same inputs, same outputs, same weights.

    model:   a timm model; wrappers of torch.compile and DistributedDataParallel are taken off
    method:  `vitrim.EViT(keep=0.7)`; or a name with its options: `reduce(model, "evit", keep=0.7)`;
             or a list of methods that act one after the other: `[ToMe(r=8, at=range(6)), EViT(keep=0.6, at=8)]`
    macs:    a share of the dense cost, in (0, 1]: solves the method's dial for the largest plan not above it
    dial:    in a stack, the name of the method whose dial `macs` turns; default the last
    copy:    give the result weights of its own; by default it shares the model's

    Raises ValueError for unsupported models, methods and options, and for a budget out of reach. Warns
    (`UntrainedWarning`) where a method has learned parts: they are random until trained.
    """
    reduced = attach(model, method, macs=macs, dial=dial, copy=copy, **options)
    learning = [one.name for one in reduced.methods if one.learns]
    if learning:
        warnings.warn(
            f"{', '.join(learning)}: the learned parts that decide are random until they are trained: run "
            "`vitrim finetune`, or load trained weights",
            UntrainedWarning,
            stacklevel=2,
        )
    return reduced


def attach(
    model: nn.Module,
    method: str | Method | Sequence[Method],
    *,
    macs: float | None = None,
    dial: str | None = None,
    copy: bool = False,
    **options: Any,
) -> ReducedViT:
    """`reduce` without its warning, for those who load trained weights next."""
    model = unwrap(model)
    if isinstance(model, ReducedViT):
        raise ValueError("the model is reduced already: give its `.backbone`, and a list of methods to stack them")
    family = find_family(model)
    model = own_copy(model) if copy else model
    body = family(model)
    warn_of_unseen(model, body.around())
    methods = _as_methods(method, options)
    for one in methods:
        body.admit(one)
    if macs is not None:
        methods = solve(body, methods, macs, dial)
    for one in methods:
        one.bind(body)
        body.admit_places(one)
    check_stack(methods, body.depth)
    for one in methods:
        _build(one, body)
    reduced = ReducedViT(model, methods)
    reduced.training = model.training
    reduced.methods.train(model.training)
    return reduced


def _build(method: Method, body: Backbone) -> None:
    """Make the learned parts, on the model's device and in its dtype."""
    method.build(body)
    like = next(body.model.parameters(), None)
    if method.learns and like is not None:
        method.to(device=like.device, dtype=like.dtype)


def _as_methods(method: str | Method | Sequence[Method], options: dict[str, Any]) -> list[Method]:
    if isinstance(method, str):
        return [copying.deepcopy(make_method(method, **options))]  # a guide among the options is the caller's
    given = list(method) if isinstance(method, Sequence) else [method]
    wrong = [m for m in given if not isinstance(m, Method)]
    if wrong or not given:
        names = ", ".join(METHODS)
        raise ValueError(f"method {wrong or given!r}: give a name ({names}) or a method such as EViT(keep=0.7)")
    if options:
        raise ValueError(f"options {', '.join(options)} go with a method's name; here they belong into {given[0]}")
    return [copying.deepcopy(m) for m in given]


def make_method(name: str, **options: Any) -> Method:
    """The method of that name with those options; ValueError naming what is not known and what would be."""
    if name not in METHODS:
        raise ValueError(f"method {name!r} is not known: choose one of {', '.join(METHODS)}")
    allowed = METHODS[name].option_names()
    wrong = [key for key in options if key not in allowed]
    if wrong:
        raise ValueError(f"{name} has no option {', '.join(wrong)}: its options are {', '.join(allowed)}")
    return METHODS[name](**options)


def solve(body: Backbone, methods: Sequence[Method], macs: float, dial: str | None = None) -> list[Method]:
    """The methods, the dial of one of them turned to the largest plan not above `macs` times the dense cost."""
    if isinstance(macs, bool) or not isinstance(macs, (int, float)) or not 0 < macs <= 1:
        raise ValueError(f"macs={macs!r} is not a share of the dense cost: give a number in (0, 1], such as 0.6")
    grid, turn = body.grid(), _dialled(methods, dial)
    method, dense = methods[turn], plan_macs(body, (), grid)

    def turned(value) -> list[Method]:
        stack = [one.with_dial(value) if j == turn else one for j, one in enumerate(methods)]
        for one in stack:
            one.bind(body)
        return stack

    def cost(value) -> int:
        return plan_macs(body, turned(value), grid)

    try:
        return turned(solve_dial(cost, macs * dense, method.dial_values(body)))
    except ValueError as error:
        raise ValueError(f"{method.name} cannot meet macs={macs} ({macs * dense / 1e9:.3f} GMACs): {error}") from None


def _dialled(methods: Sequence[Method], dial: str | None) -> int:
    """Which method of the stack the budget turns: the one named, else the last."""
    if dial is None:
        return len(methods) - 1
    named = [j for j, method in enumerate(methods) if method.name == dial]
    if len(named) != 1:
        names = ", ".join(method.name for method in methods)
        raise ValueError(f"dial={dial!r} must name one method of the stack, and it has {names}")
    return named[0]


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
        watches = type(other).watch is not Method.watch  # and would watch ragged blocks, too
        after = watches or any(place.block > method.places[0].block for place in other.places)
        if other is not method and (after or other.weighs):
            raise ValueError(
                f"{method.name} leaves every image a number of tokens of its own, and {other.name} "
                f"{'cannot work on such a batch' if after else 'has merged tokens, which cannot be packed so'}: "
                f"{way_out}leave one out"
            )


def _check_span(method: Method, place: Place, methods: Sequence[Method]) -> None:
    until = method.until(place)
    if until is None:
        return
    for other in methods:
        inside = [p.block for p in other.places if place.block <= p.block < until and other is not method]
        if inside:
            raise ValueError(
                f"{other.name} at block {inside[0]} would act while {method.name} holds tokens outside (blocks "
                f"{place.block} to {until - 1}), and what it removes could not be put back: move {other.name}"
            )
