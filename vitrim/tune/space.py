"""What is searched: how many tokens leave at every place of a stack, and, where a method both drops and merges, which
share of them is dropped.

A shape says so without a method's own options: `Space.methods` writes it as keep rates, as `r`, or as two lists.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

from torch import nn

from ..backbones import Backbone, find_family
from ..core.schedule import Place
from ..methods import METHODS, Method
from ..runtime.build import make_method
from ..runtime.cost import plan_cost, plan_macs, whole_macs
from ..runtime.model import ReducedViT
from ..runtime.stack import bind_stack
from ..runtime.turns import Step, Turn, plan_turns

STACKED = "+"
FEWEST = 1  # patch tokens that stay, always
LISTS = {"pruned", "merged"}
LAST_BLOCK = "last block"  # one that computes class tokens alone


@dataclass(frozen=True)
class Shape:
    """Tokens that leave at each place, in the order in which places act, and which share of them is dropped there.

    Example:
        >>> Shape((4, 8), (0.0, 0.5)).moved(0, 2)
        Shape(removed=(6, 8), dropped=(0.0, 0.5))
    """

    removed: tuple[int, ...]
    dropped: tuple[float, ...]

    def moved(self, place: int, tokens: int) -> Shape:
        """With so many tokens more that leave at a place."""
        return replace(self, removed=_changed(self.removed, place, max(self.removed[place] + tokens, 0)))

    def with_removed(self, place: int, tokens: int) -> Shape:
        """With so many tokens that leave at a place."""
        return replace(self, removed=_changed(self.removed, place, tokens))

    def with_dropped(self, place: int, share: float) -> Shape:
        """With that share of the leaving tokens dropped at a place."""
        return replace(self, dropped=_changed(self.dropped, place, min(max(round(share, 2), 0.0), 1.0)))


def _changed(values: tuple, place: int, value: Any) -> tuple:
    return (*values[:place], value, *values[place + 1 :])


class Space:
    """The plans of a stack of methods on a model.

    model:   a dense model of timm, or what `vitrim.for_images` makes of another
    names:   the methods of the stack: the first acts in the first blocks, the next in the next, evenly
    prediction_only: as for `vitrim.reduce`
    Raises ValueError for methods that have no plan to search: learned ones, and those whose images keep numbers of
    tokens of their own.

    Example:
        >>> space = Space(model, ["tome"])
        >>> space.methods(Shape((10, 0, 6, 0), (0.0,) * 4))[0]
        ToMe(r=[10, 0, 6, 0], at=[0, 1, 2, 3])
        >>> Space(model, ["tome"], prediction_only=True).kinds
        ('block', 'block', 'block', 'last block')
    """

    def __init__(self, model: nn.Module, names: Sequence[str], prediction_only: bool = False):
        self.body: Backbone = find_family(model)(model)
        self.names, self.prediction_only = tuple(names), prediction_only
        if prediction_only:
            self.body.check_prediction_only()
        self.grid = self.body.grid()
        self.patches = math.prod(self.grid)
        self.dense = whole_macs(self.body, self.grid)
        self._stack = self._empty_stack()
        self.turns = plan_turns(self._stack, self.body.depth, prediction_only)
        self._order = [step for turn in self.turns for step in (*turn.before, *turn.between)]
        self.mixes = tuple(set(step.method.option_names()) >= LISTS for step in self._order)

    @property
    def places(self) -> int:
        """Places of all methods."""
        return len(self._order)

    @property
    def steps(self) -> tuple[Step, ...]:
        """The places, in the order in which they act."""
        return tuple(self._order)

    @property
    def blocks(self) -> tuple[int, ...]:
        """The block of each place."""
        return tuple(step.place.block for step in self._order)

    @cached_property
    def kinds(self) -> tuple[str, ...]:
        """What to call blocks of one shape, block by block. Raises ValueError for models whose blocks have several
        grids.
        """
        body, n, blocks = self.body, self.patches, range(self.body.depth)
        if len({body.grid_at(i, self.grid) for i in blocks}) > 1:
            raise ValueError("milliseconds are measured where all blocks have one grid: give shares of MACs here")
        shapes = [(body.channels(i), body.heads(i), body.block_macs(i, n, n, self.grid)) for i in blocks]
        names = ["block" if len(set(shapes)) == 1 else f"block from {shapes.index(shape)}" for shape in shapes]
        return tuple(LAST_BLOCK if turn.predicts else name for turn, name in zip(self.turns, names, strict=True))

    @property
    def name(self) -> str:
        """The methods."""
        return STACKED.join(self.names)

    # -- from a shape to methods, and back

    def methods(self, shape: Shape) -> list[Method]:
        """The stack with these counts, bound to the model. Where fewer tokens are there than are to leave, fewer do."""
        rates: dict[int, list[Any]] = {number: [] for number in range(len(self._stack))}
        for number, rate in self._rates(shape):
            rates[number].append(rate)
        stack = [self._with_rates(number, rates[number]) for number in range(len(self._stack))]
        bind_stack(self.body, stack)
        return stack

    def model(self, shape: Shape) -> ReducedViT:
        """The model with this plan, over the same weights."""
        return ReducedViT(self.body.model, self.methods(shape), self.prediction_only)

    def options(self, shape: Shape) -> tuple[tuple[str, dict[str, Any]], ...]:
        """The same as names and options."""
        return tuple((method.name, method.options()) for method in self.methods(shape))

    def shape_of(self, methods: Sequence[Method]) -> Shape:
        """The shape of a stack of these methods, acting at the same places or at some of them."""
        removed, dropped = [0] * self.places, [0.0] * self.places
        for number, place, n, left, share in _walk(self.body, methods, self.grid):
            j = self._number(methods[number].name, place.block)
            if j is not None:
                removed[j], dropped[j] = n - left, share
        return Shape(tuple(removed), tuple(dropped))

    def _number(self, name: str, block: int) -> int | None:
        found = (j for j, step in enumerate(self._order) if (step.method.name, step.place.block) == (name, block))
        return next(found, None)

    def share(self, shape: Shape) -> float:
        """MACs, as a share of the dense model's."""
        found = plan_macs(self.body, self.methods(shape), self.grid, prediction_only=self.prediction_only)
        return found / self.dense

    def tokens(self, shape: Shape) -> tuple[int, ...]:
        """Patch tokens after each block; in a last one that computes class tokens alone those of its attention."""
        blocks, _ = plan_cost(self.body, self.methods(shape), self.grid, prediction_only=self.prediction_only)
        return tuple(block.mlp_tokens or block.attention_tokens for block in blocks)

    def walk(self, shape: Shape) -> Iterator[tuple[Turn, Step | None, int, int]]:
        """(the turn, who takes tokens in it, patch tokens before that, and behind it) of every block, by arithmetic
        alone: where a method cannot take as many as the shape says it takes fewer, which `shape_of` knows."""
        leaving = {step.place.block: (step, n, out) for step, n, out in self._leaving(shape)}
        n = self.patches
        for turn in self.turns:
            step, before, out = leaving.get(turn.block, (None, n, 0))
            yield turn, step if out else None, before, before - out
            n = n if step is not None and step.restore_before is not None else before - out

    def _leaving(self, shape: Shape) -> Iterator[tuple[Step, int, int]]:
        """For every place, in the order in which they act: it, the patch tokens before it, and how many leave."""
        n = self.patches
        for step, removed in zip(self._order, shape.removed, strict=True):
            leaving = min(removed, n // 2 if step.method.dial == "r" else n - FEWEST)
            yield step, n, leaving
            n = n if step.restore_before is not None else n - leaving

    def _rates(self, shape: Shape) -> Iterator[tuple[int, Any]]:
        """For every place, in the order in which they act, its method's number and what the method takes there."""
        for (step, n, leaving), dropped in zip(self._leaving(shape), shape.dropped, strict=True):
            yield step.method.number, self._rate(step.method, step.place, n, leaving, dropped)

    def _rate(self, method: Method, place: Place, n: int, leaving: int, dropped: float) -> Any:
        if set(method.option_names()) >= LISTS:
            pruned = math.floor(dropped * leaving + 0.5)
            return pruned, leaving - pruned
        if method.dial == "r":
            return leaving
        return _keep_rate(method, replace(place, patches=self.patches), n, n - leaving)

    def _with_rates(self, number: int, rates: list[Any]) -> Method:
        method = self._stack[number]
        at = {_places_option(method): [place.block for place in method.places]}
        rest = {key: value for key, value in method.options().items() if key not in (method.dial, *LISTS)}
        if set(method.option_names()) >= LISTS:
            lists = {"pruned": [p for p, _ in rates], "merged": [m for _, m in rates]}
            return make_method(method.name, **{**rest, **lists, **at})
        return make_method(method.name, **{**rest, method.dial: rates, **at})

    # -- the places

    def _empty_stack(self) -> list[Method]:
        """The methods at all blocks that are theirs."""
        cuts = [round(self.body.depth * j / len(self.names)) for j in range(len(self.names) + 1)]
        stack = [
            _admitted(self.body, name, self._useful(name, range(start, end)))
            for name, start, end in zip(self.names, cuts[:-1], cuts[1:], strict=True)
        ]
        bind_stack(self.body, stack)
        return stack

    def _useful(self, name: str, blocks: range) -> list[int]:
        """The blocks in which it helps to act: nothing has to leave before the first one, nor after the attention of a
        last one that computes class tokens alone."""
        before = name in METHODS and METHODS[name].acts == "before"
        last = self.body.depth - 1 if self.prediction_only and not before else self.body.depth
        return [block for block in blocks if int(before) <= block < last]

    def room(self, shape: Shape, place: int) -> int:
        """The most tokens that may leave at a place, with what leaves at the others."""
        gone = sum(
            removed
            for j, (step, removed) in enumerate(zip(self._order, shape.removed, strict=True))
            if j != place and step.restore_before is None
        )
        return max(self.patches - FEWEST - gone, 0)


def _admitted(body: Backbone, name: str, blocks: Sequence[int]) -> Method:
    """A method at these blocks. Raises ValueError where it has no plan to search."""
    if name not in METHODS:
        make_method(name)  # says which there are
    cls = METHODS[name]
    if not blocks:
        raise ValueError(f"{name} has no block left to act in: stack fewer methods")
    method = make_method(name, **{_places_option(cls): list(blocks)})
    body.admit(method)
    method.bind(body)
    method.build(body)
    if method.learns:
        raise ValueError(f"{name} decides by learned parts, and a plan is searched without training: train it instead")
    if method.counts == "own" or type(method).count is Method.count:
        raise ValueError(f"with {name} every image keeps a number of tokens of its own: there is no plan to search")
    if method.dial not in ("keep", "r"):
        raise ValueError(f"{name} is set by {method.dial}, and a plan is searched for keep rates and counts")
    return method


def _places_option(method: Method | type[Method]) -> str:
    """What a method calls the blocks at which it acts."""
    return "at" if "at" in method.option_names() else "blocks"


def _keep_rate(method: Method, place: Place, n: int, left: int) -> float:
    """The keep rate, as short as may be, with which `left` of n tokens stay; where there is none, the next above."""
    if left >= n:
        return 1.0

    def count(keep: float) -> int:
        at = replace(place, keep=keep)
        return method.count(at, n) if method.acts_on(at, n) else n

    low, high, steps = 0, 10**6, 10**6  # count(low) < left <= count(high)
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (low, middle) if count(middle / steps) >= left else (middle, high)
    exact = high / steps
    rounded = (math.ceil(exact * 10**digits) / 10**digits for digits in range(2, 6))
    return next((rate for rate in rounded if count(rate) == count(exact)), exact)


def _walk(
    body: Backbone, methods: Sequence[Method], grid: tuple[int, int]
) -> Iterator[tuple[int, Place, int, int, float]]:
    """(the method's number, the place, tokens before it, tokens after it, the share of those leaving that is dropped)
    at each place of a plan."""
    n = patches = math.prod(grid)
    for turn in plan_turns(methods, body.depth):
        for step in (*turn.before, *turn.between):
            place = replace(step.place, patches=patches)
            left = step.method.count(place, n) if step.method.acts_on(place, n) else n
            plan = getattr(step.method, "plan", None)
            share = plan(place, n)[0] / (n - left) if plan is not None and left < n else 0.0
            yield step.method.number, place, n, left, share
            n = n if step.restore_before is not None else left
