"""What a budget buys: the dial of a method turned to the largest plan not above it."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

from ..backbones import Backbone
from ..common.errors import OptionError, Part
from ..core.values import as_number
from ..methods import Method
from .cost import plan_macs, whole_macs

KEEP_STEPS = 10**6  # how finely a budget is solved for a keep rate


def solve(
    body: Backbone, methods: Sequence[Method], macs: float, dial: str | None = None, prediction_only: bool = False
) -> list[Method]:
    """The methods, the dial of one of them turned to the largest plan not above `macs` times the dense cost."""
    share = check_share(macs)
    turn = _dialled(methods, dial)
    method, dense = methods[turn], whole_macs(body, body.grid())
    turned, cost = _turner(body, methods, turn, prediction_only)
    try:
        value = solve_dial(cost, share * dense, method.dial_values(body))
    except OutOfReach as error:
        low, high = math.ceil(1000 * error.low / dense) / 1000, error.high / dense
        earlier: tuple[Part, ...] = ()
        if "at" in method.option_names() and method.blocks_of(body)[0] > 1 and body.depth > 3:
            earlier = (", or let it act earlier, such as ", {"at": (1, 2, 3)})
        raise OptionError(
            f"{method.name} cannot meet ",
            {"macs": share},
            f": out of reach, its plans cost {low:g} to {high:.3g} of the dense model: give a share from {low:g}",
            *earlier,
        ) from None
    _check_given(method, value, share)
    return turned(value)


def check_share(macs: float) -> float:
    """The budget as a number. Raises ValueError where it is no share of the dense cost."""
    share = as_number(macs)
    if share is None or not 0 < share <= 1:
        raise OptionError({"macs": macs}, " is no share of the dense cost: give a number in (0, 1], such as 0.6")
    return share


def reach(body: Backbone, methods: Sequence[Method]) -> tuple[float, float]:
    """The smallest share of the dense cost that `macs` can ask of the last of these methods, rounded up to a thousandth
    so that it can be asked for; and the cost of its dearest plan, as a share. Raises ValueError as `solve` does.

    Example:
        >>> fast = vitrim.reduce(model, "evit")
        >>> reach(fast.body, [vitrim.EViT()])
        (0.417, 1.0)
    """
    turn, dense = len(methods) - 1, whole_macs(body, body.grid())
    _, cost = _turner(body, methods, turn)
    at, count = _dial_steps(methods[turn].dial_values(body))
    return math.ceil(1000 * cost(at(0)) / dense) / 1000, cost(at(count - 1)) / dense


def _turner(
    body: Backbone, methods: Sequence[Method], turn: int, prediction_only: bool = False
) -> tuple[Callable[[float], list[Method]], Callable[[float], int]]:
    """For a value of the dial of one of the methods: all of them, bound; and the MACs of that plan."""
    for method in methods:
        body.admit(method)

    def turned(value) -> list[Method]:
        stack = [method.with_dial(value) if j == turn else method for j, method in enumerate(methods)]
        for method in stack:
            method.bind(body)
        return stack

    return turned, lambda value: plan_macs(body, turned(value), body.grid(), prediction_only=prediction_only)


def _check_given(method: Method, value: float, macs: float) -> None:
    """Raise ValueError where the method came with another value of its dial, which would be dropped."""
    given = method.options().get(method.dial)
    if given is not None and given != value:
        raise OptionError(
            {"macs": macs},
            f" solves for the {method.dial} of {method.name}, and it has ",
            {method.dial: given},
            ": leave one of the two out",
        )


def _dialled(methods: Sequence[Method], dial: str | None) -> int:
    """Which method of the stack the budget turns: the one named, else the last."""
    if dial is None:
        return len(methods) - 1
    named = [j for j, method in enumerate(methods) if method.name == dial]
    if len(named) != 1:
        names = ", ".join(method.name for method in methods)
        raise ValueError(f"dial={dial!r} must name one method of the stack, and it has {names}")
    return named[0]


class OutOfReach(ValueError):
    """Even the cheapest plan is above the budget. low, high: MACs of the cheapest and of the dearest plan."""

    def __init__(self, low: int, high: int):
        super().__init__(f"out of reach: {low / 1e9:.3f} to {high / 1e9:.3f} GMACs can be had")
        self.low, self.high = low, high


def solve_dial(cost: Callable[[float], int], budget: float, values: Sequence[float] | None = None) -> float:
    """The dial value whose plan is the largest not above `budget` MACs; of equal plans, the shortest number.

    cost:   dial value -> MACs, rising with the dial
    values: the dial's values from cheapest to dearest; default: keep rates (0, 1] in steps of 1e-6
    Raises `OutOfReach` where even the cheapest plan is above the budget.
    """
    at, count = _dial_steps(values)
    low, high = 0, count - 1
    if cost(at(high)) <= budget:  # a plan that keeps all asks nobody, and can be cheaper than the one before it
        return at(high)
    if cost(at(low)) > budget:
        raise OutOfReach(cost(at(low)), cost(at(high)))
    while low < high:
        middle = (low + high + 1) // 2
        low, high = (middle, high) if cost(at(middle)) <= budget else (low, middle - 1)
    return at(low) if values is not None else _shortest(at(low), cost)


def _dial_steps(values: Sequence[float] | None) -> tuple[Callable[[int], float], int]:
    """The value of each step of a dial, from the cheapest, and how many steps there are."""
    return ((lambda j: (j + 1) / KEEP_STEPS), KEEP_STEPS) if values is None else (values.__getitem__, len(values))


def _shortest(dial: float, cost: Callable[[float], int]) -> float:
    """The keep rate with the fewest decimals that has the same plan."""
    for decimals in range(1, 7):
        for rounded in (round(dial, decimals), math.floor(dial * 10**decimals) / 10**decimals):
            if 0 < rounded <= 1 and cost(rounded) == cost(dial):
                return rounded
    return dial
