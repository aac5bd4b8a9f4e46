"""The method and the plan for a model and a budget that nobody has searched for: what the measurements say."""

from __future__ import annotations

import functools
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NoReturn

from ..backbones import Backbone
from ..common.errors import OptionError, UnfitModel
from ..methods import METHODS, Method
from .budget import check_share, solve
from .cost import plan_macs, whole_macs
from .curve import Curve
from .plan_file import Plan, architecture_of, read_plans
from .words import options_in_words

PRESETS = Path(__file__).with_name("presets.json")  # made by benchmarks/presets.py
# Untrained, the best first: docs/tune.md (their own plans at half of the MACs), then docs/choose.md. Where the head
# reads patch tokens, those that merge alone come first, as their own plans are nearer: docs/tune.md, "Presets".
RANKED = ("prunemerge", "tome", "dpcknn", "diffrate", "pitome", "bat", "evit", "topk", "evovit", "idlevit")
RANKED_BY_PATCHES = ("tome", "dpcknn", "pitome", *(name for name in RANKED if name not in ("tome", "dpcknn", "pitome")))
MOST, HALVINGS = 64.0, 24  # of the power of a curve; steps in which it is found


@dataclass(frozen=True)
class Choice:
    """What `auto` picked: the methods, whether the last block computes class tokens alone, and both in a line."""

    methods: list[Method]
    prediction_only: bool
    said: str


def choose(body: Backbone, macs: float | None) -> Choice:
    """The methods for a share of the dense cost: a plan that was searched on this model, else the best method that the
    model admits, with a plan shaped like the searched ones.

    Raises ValueError for a budget that is none or out of reach, and where no method fits.

    Example:
        >>> from vitrim.runtime.auto import choose
        >>> choose(vitrim.reduce(model, "evit").body, 0.7).methods[0].name
        'prunemerge'
    """
    if macs is None:
        raise OptionError("auto picks the plan for a budget: give ", {"macs": ...}, ", a share of the dense cost")
    share, only = check_share(macs), _predicts(body)
    found = _searched(body, share, only)
    if found is not None:
        return found
    skipped: list[str] = []
    for name in RANKED if only else RANKED_BY_PATCHES:
        options = _options(body, name, skipped)
        if options is not None:
            return (shaped_plan if name in _shapes() else _even)(body, name, options, share, only, skipped)
    raise ValueError(f"auto found no method for {architecture_of(body.model)}: {skipped[0]}")


def _predicts(body: Backbone) -> bool:
    """Whether the head reads class tokens alone, so that the last block may compute nothing else."""
    try:
        body.check_prediction_only()
    except ValueError:
        return False
    return True


@functools.cache
def _presets() -> tuple[Plan, ...]:
    return read_plans(PRESETS)


@functools.cache
def _shapes() -> dict[str, dict[float, Plan]]:
    """For each method the plans that were searched, by their budgets."""
    shapes: dict[str, dict[float, Plan]] = {}
    for plan in _presets():
        shapes.setdefault(plan.names, {}).setdefault(plan.budget, plan)
    return shapes


# -- what the model admits


def _options(body: Backbone, name: str, skipped: list[str]) -> dict[str, Any] | None:
    """The options without which a method could not run on the model; None, and the reason in `skipped`: it cannot.
    A method that would need another score than its plans were searched with is none of these."""
    try:
        _bind(body, METHODS[name]())
        return {}
    except ValueError as error:
        skipped.append(str(error).partition(": ")[0].partition(" (")[0])
        needs = error.parts if isinstance(error, UnfitModel) and name not in _shapes() else ()
    return next((dict(part) for part in needs if not isinstance(part, str) and _untrained(body, name, part)), None)


def _untrained(body: Backbone, name: str, options: Mapping[str, Any]) -> bool:
    """Whether the method with these options fits, and decides by nothing that it would have to learn."""
    try:
        method = _bind(body, METHODS[name](**options))
    except ValueError:
        return False
    method.build(body)
    return not method.learns


def _bind(body: Backbone, method: Method) -> Method:
    body.admit(method)
    method.bind(body)
    body.admit_places(method)
    return method


# -- the three kinds of plans


def _searched(body: Backbone, share: float, only: bool) -> Choice | None:
    """The plan that was searched on this architecture for this budget, if there is one."""
    for plan in _presets():
        if _is_of(plan, body) and math.isclose(plan.budget, share, abs_tol=1e-6):
            methods = [METHODS[name](**options) for name, options in plan.methods]
            cost = _cost(body, [_bind(body, method) for method in methods], plan.prediction_only)
            if cost <= share and only >= plan.prediction_only:
                told = f"the plan that was searched on it for {plan.budget:g} of the MACs"
                return _said(body, methods, plan.prediction_only, plan.names, told, [])
    return None


def shaped_plan(
    body: Backbone, name: str, options: dict[str, Any], share: float, only: bool, skipped: Sequence[str] = ()
) -> Choice:
    """A plan shaped like those that were searched for the next budgets above and below; for methods that have some.

    options: of the method; share: of the MACs; only: the last block computes class tokens alone; skipped: why no better
    method was taken

    Example:
        >>> from vitrim.runtime.auto import shaped_plan
        >>> shaped_plan(vitrim.reduce(model, "evit").body, "tome", {}, 0.7, False).methods[0].name
        'tome'
    """
    curve, told = _curve(_shapes()[name], share)
    (height, width), blocks = body.grid(), [*body.default_blocks]
    blocks = blocks[:-1] if only and blocks[-1] == body.depth - 1 and len(blocks) > 1 else blocks
    halves = METHODS[name].dial == "r"

    def made(counts: Sequence[tuple[int, int]]) -> Method:
        return _bind(body, _with_counts(name, options, blocks, counts))

    def fits(counts: Sequence[tuple[int, int]]) -> bool:
        return _cost(body, [made(counts)], only) <= share

    def at(power: float) -> list[tuple[int, int]]:
        return curve.counts(blocks, body.depth, height * width, power, halves)

    if not fits(at(MOST)):
        _refuse(name, share, _cost(body, [made(at(MOST))], only))
    counts = _filled(at(_power(lambda power: fits(at(power)))), fits)
    untried = "" if _is_of(next(iter(_shapes()[name].values())), body) else "; not tried on this model"
    return _said(body, [made(counts)], only, name, f"a plan shaped like {told}{untried}", skipped)


def _even(
    body: Backbone, name: str, options: dict[str, Any], share: float, only: bool, skipped: Sequence[str]
) -> Choice:
    """A method's own plan, where no shape was searched."""
    methods = solve(body, [METHODS[name](**options)], share, prediction_only=only)
    return _said(body, methods, only, f"{name}({options_in_words(methods[0])})", "its own plan", skipped)


# -- a shape for a budget


def _curve(plans: dict[float, Plan], share: float) -> tuple[Curve, str]:
    """Between the curves of the two budgets around this one; beyond them the nearest. And which they are, in words."""
    low = max((budget for budget in plans if budget <= share), default=min(plans))
    high = min((budget for budget in plans if budget >= share), default=max(plans))
    low, high = min(low, high), max(low, high)
    source = plans[low].model
    if low == high or not low <= share <= high:
        near = min((low, high), key=lambda budget: abs(budget - share))
        return Curve.of(plans[near]), f"the one searched on {source} for {near:g} of the MACs"
    curve = Curve.of(plans[low]).towards(Curve.of(plans[high]), (share - low) / (high - low))
    return curve, f"those searched on {source} for {low:g} and {high:g} of the MACs"


def _power(fits: Callable[[float], bool]) -> float:
    """The smallest power of a curve that meets the budget."""
    low, high = 0.0, MOST
    if fits(low):
        return low
    for _ in range(HALVINGS):
        middle = (low + high) / 2
        low, high = (low, middle) if fits(middle) else (middle, high)
    return high


def _filled(counts: list[tuple[int, int]], fits: Callable[[Sequence[tuple[int, int]]], bool]) -> list[tuple[int, int]]:
    """Single tokens stay after all, where the budget has room for them: in the last blocks, where one costs least."""
    for j in reversed(range(len(counts))):
        while sum(counts[j]) and fits(fewer := [*counts[:j], _one_fewer(*counts[j]), *counts[j + 1 :]]):
            counts = fewer
    return counts


def _one_fewer(pruned: int, merged: int) -> tuple[int, int]:
    return (pruned - 1, merged) if pruned > merged else (pruned, merged - 1)


def _with_counts(
    name: str, options: dict[str, Any], blocks: Sequence[int], counts: Sequence[tuple[int, int]]
) -> Method:
    """The method with these counts, at the blocks where something leaves."""
    acting = [(block, p, m) for block, (p, m) in zip(blocks, counts, strict=True) if p + m] or [(blocks[-1], 0, 0)]
    at, pruned, merged = (list(column) for column in zip(*acting, strict=True))
    lists = {"r": merged} if METHODS[name].dial == "r" else {"pruned": pruned, "merged": merged}
    return METHODS[name](**options, **lists, at=at)


# -- what it costs, and what is said


def _cost(body: Backbone, methods: Sequence[Method], only: bool) -> float:
    """MACs, as a share of the dense model's."""
    grid = body.grid()
    return plan_macs(body, methods, grid, prediction_only=only) / whole_macs(body, grid)


def _refuse(name: str, share: float, low: float) -> NoReturn:
    low = math.ceil(1000 * low) / 1000
    raise OptionError(
        f"auto, with {name}, cannot meet ",
        {"macs": share},
        f": out of reach, its plans cost {low:g} to 1 of the dense model: give a share from {low:g}",
    )


def _said(body: Backbone, methods: list[Method], only: bool, name: str, told: str, skipped: Sequence[str]) -> Choice:
    cost = _cost(body, methods, only)
    reasons = skipped or ([] if only else ["its head reads patch tokens"])
    instead = f" ({reasons[0]})" if reasons and not name.startswith(RANKED[0]) else ""
    return Choice(methods, only, f"auto chose {name}, {told}; {100 * cost:.1f} % of the MACs{instead}")


def _is_of(plan: Plan, body: Backbone) -> bool:
    """Whether the plan was searched on this architecture with as many patches."""
    height, width = body.grid()
    return (plan.model, plan.depth, plan.patches) == (architecture_of(body.model), body.depth, height * width)
