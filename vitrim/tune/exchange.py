"""The search for one budget: exchanges. A few tokens more leave at one place and fewer at another, so that the cost
stays; what is better is kept. Its moves are the only ones that all plans of one cost can be reached by."""

from __future__ import annotations

import random
from collections.abc import Callable
from dataclasses import dataclass

from .space import Shape, Space

STEPS = (1, 2, 3, 5, 8, 13)  # tokens of 196
SHARES = (0.1, 0.2, 0.5, 1.0)
OF_196 = 196
MIX, THREE = 0.35, 0.3  # how often the dropped share moves; how often three places do
CLOSE = 0.15  # how often a place is closed, where a place costs something by itself
TRIES = 200  # moves that fit nothing, one after the other, before a search gives up


@dataclass(frozen=True)
class Cost:
    """What a plan costs, as a share of the dense model: of MACs, or of milliseconds.

    share: a shape to that share; it never rises where more tokens leave at a place that is open already
    by:    "macs" or "latency"
    exact: the same with what methods take that cannot take as many as the shape says; None: `share` knows that
    opening: whether a place costs something as soon as it is open, however few tokens leave there
    """

    share: Callable[[Shape], float]
    by: str = "macs"
    exact: Callable[[Shape], float] | None = None
    opening: bool = False


class Exchange:
    """Plans of one budget, and moves between them.

    budget: a share of the dense cost; every plan costs at most that
    """

    def __init__(self, space: Space, cost: Cost, budget: float, seed: int):
        self.space, self.cost, self.budget = space, cost, budget
        self.random = random.Random(f"{seed} {budget:g} {space.name}")
        self.unit = max(space.patches / OF_196, 0.1)

    def propose(self, shape: Shape) -> Shape | None:
        """Another plan of the budget, a move away; None: none was found."""
        for _ in range(TRIES):
            new = self._move(shape)
            new = new if new is None or not self.cost.opening else self.postponed(new)
            if new is not None and new != shape and self.holds(new):
                return new
        return None

    def holds(self, shape: Shape) -> bool:
        """Whether a plan is within the budget, as it will run."""
        return (self.cost.exact or self.cost.share)(shape) <= self.budget

    def _move(self, shape: Shape) -> Shape | None:
        draw, places = self.random, self.space.places
        mixing = [j for j, mixes in enumerate(self.space.mixes) if mixes]
        if mixing and draw.random() < MIX:
            j = draw.choice(mixing)
            new = shape.with_dropped(j, shape.dropped[j] + draw.choice((-1, 1)) * draw.choice(SHARES))
            return self.fit(new, j if draw.random() < 0.5 else draw.randrange(places))
        if places < 2:
            return None
        if self.cost.opening and draw.random() < CLOSE:
            return self._closed(shape)
        several = draw.sample(range(places), 3 if places > 2 and draw.random() < THREE else 2)
        for j in several[:-1]:
            tokens = max(1, round(draw.choice(STEPS) * self.unit))
            shape = shape.moved(j, draw.choice((-1, 1)) * tokens)
        return self.fit(shape, several[-1])

    def fit(self, shape: Shape, place: int) -> Shape | None:
        """The plan within the budget in which fewest tokens leave at one place, the others as they are; None: none."""
        low, high = 0, self.space.room(shape, place)
        if self.cost.opening and not self._over(shape.with_removed(place, 0)):
            return shape.with_removed(place, 0)  # more may leave there and it costs more: it is open then
        if self._over(shape.with_removed(place, high)):
            return None
        while low < high:
            middle = (low + high) // 2
            low, high = (low, middle) if not self._over(shape.with_removed(place, middle)) else (middle + 1, high)
        return shape.with_removed(place, low)

    def _closed(self, shape: Shape) -> Shape | None:
        """With one open place less; its tokens leave at another."""
        places = [j for j, removed in enumerate(shape.removed) if removed]
        if not places:
            return None
        j = self.random.choice(places)
        others = [other for other in range(self.space.places) if other != j]
        return self.fit(shape.with_removed(j, 0), self.random.choice(others))

    def postponed(self, shape: Shape) -> Shape:
        """With every token staying for as many blocks as the budget allows: where time falls in stairs, as many stay
        as a step holds."""
        before = None
        while shape != before:  # ends: tokens only ever stay longer
            before = shape
            open_places = [j for j, removed in enumerate(shape.removed) if removed]
            for j, after in zip(open_places, [*open_places[1:], None], strict=False):
                shape = self._postponed(shape, j, after)
        return shape

    def _postponed(self, shape: Shape, j: int, after: int | None) -> Shape:
        """As many tokens as may leave at place `after` (None: never) and not at j."""
        gone = shape.removed[j]

        def later(tokens: int) -> Shape:
            new = shape.with_removed(j, gone - tokens)
            return new if after is None else new.moved(after, tokens)

        if not self._over(later(gone)):
            return later(gone)
        low, high = 0, gone - 1
        while low < high:
            middle = (low + high + 1) // 2
            low, high = (low, middle - 1) if self._over(later(middle)) else (middle, high)
        return later(low)

    def scaled(self, shape: Shape) -> Shape | None:
        """The plan of the budget that is shaped like another, from nothing at all to all that can leave."""
        low, high = 0.0, 1.0
        while self._over(_times(shape, high)) and high < 64:
            high *= 2
        if self._over(_times(shape, high)):
            return None
        for _ in range(20):
            middle = (low + high) / 2
            low, high = (low, middle) if not self._over(_times(shape, middle)) else (middle, high)
        return _times(shape, high)

    def _over(self, shape: Shape) -> bool:
        return self.cost.share(shape) > self.budget


def _times(shape: Shape, factor: float) -> Shape:
    return Shape(tuple(round(r * factor) for r in shape.removed), shape.dropped)
