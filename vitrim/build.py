"""`reduce`: put token reduction on a model."""

from __future__ import annotations

import copy as copying
from collections.abc import Sequence
from typing import Any

from torch import nn

from .backbones import Backbone, find_family
from .cost import plan_macs, solve_dial
from .methods import METHODS, Method
from .model import ReducedViT, unwrap


def reduce(
    model: nn.Module,
    method: str | Method | Sequence[Method],
    *,
    macs: float | None = None,
    copy: bool = False,
    **options: Any,
) -> ReducedViT:
    """A supported timm model with token reduction: same inputs, same outputs, same weights.

    model:   a timm model; wrappers of torch.compile and DistributedDataParallel are taken off
    method:  `vitrim.EViT(keep=0.7)`, or a name with its options: `reduce(model, "evit", keep=0.7)`
    macs:    a share of the dense cost, in (0, 1]: solves the method's dial for the largest plan not above it
    copy:    give the result weights of its own; by default it shares the model's

    Raises ValueError for unsupported models, methods and options, and for a budget out of reach.
    """
    model = unwrap(model)
    if isinstance(model, ReducedViT):
        raise ValueError("the model is reduced already: give its `.backbone`, and a list of methods to stack them")
    family = find_family(model)
    model = copying.deepcopy(model) if copy else model
    body = family(model)
    methods = _as_methods(method, options)
    if macs is not None:
        methods = solve(body, methods, macs)
    for one in methods:
        one.bind(body)
        one.build(body)
    return ReducedViT(model, methods)


def _as_methods(method: str | Method | Sequence[Method], options: dict[str, Any]) -> list[Method]:
    if isinstance(method, str):
        return [make_method(method, **options)]
    given = [method] if isinstance(method, Method) else list(method)
    wrong = [m for m in given if not isinstance(m, Method)]
    if wrong or not given:
        names = ", ".join(METHODS)
        raise ValueError(f"method {wrong or given!r}: give a name ({names}) or a method such as EViT(keep=0.7)")
    if options:
        raise ValueError(f"options {', '.join(options)} go with a method's name; here they belong into {given[0]}")
    if len(given) > 1:
        raise ValueError("stacking several methods is not supported yet: give one")
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


def solve(body: Backbone, methods: Sequence[Method], macs: float) -> list[Method]:
    """The methods with their dial turned to the largest plan not above `macs` times the dense cost."""
    if isinstance(macs, bool) or not isinstance(macs, (int, float)) or not 0 < macs <= 1:
        raise ValueError(f"macs={macs!r} is not a share of the dense cost: give a number in (0, 1], such as 0.6")
    grid, (method,) = body.grid(), methods
    dense = plan_macs(body, (), grid)

    def turned(dial) -> Method:
        one = method.with_dial(dial)
        one.bind(body)
        return one

    def cost(dial) -> int:
        return plan_macs(body, [turned(dial)], grid)

    try:
        return [turned(solve_dial(cost, macs * dense, method.dial_values(body)))]
    except ValueError as error:
        raise ValueError(f"{method.name} cannot meet macs={macs} ({macs * dense / 1e9:.3f} GMACs): {error}") from None
