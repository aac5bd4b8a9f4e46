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
TRIES = 200  # moves that fit nothing, one after the other, before a search gives up


@dataclass(frozen=True)
class Cost:
    """What a plan costs, as a share of the dense model: of MACs, or of milliseconds.

    share: a shape to that share; it never rises where more tokens leave
    """

    share: Callable[[Shape], float]
    by: str = "macs"


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
            if new is not None and new != shape:
                return new
        return None

    def _move(self, shape: Shape) -> Shape | None:
        draw, places = self.random, self.space.places
        mixing = [j for j, mixes in enumerate(self.space.mixes) if mixes]
        if mixing and draw.random() < MIX:
            j = draw.choice(mixing)
            new = shape.with_dropped(j, shape.dropped[j] + draw.choice((-1, 1)) * draw.choice(SHARES))
            return self.fit(new, j if draw.random() < 0.5 else draw.randrange(places))
        if places < 2:
            return None
        several = draw.sample(range(places), 3 if places > 2 and draw.random() < THREE else 2)
        for j in several[:-1]:
            tokens = max(1, round(draw.choice(STEPS) * self.unit))
            shape = shape.moved(j, draw.choice((-1, 1)) * tokens)
        return self.fit(shape, several[-1])

    def fit(self, shape: Shape, place: int) -> Shape | None:
        """The dearest plan within the budget that differs at one place alone; None: there is none."""
        low, high = 0, self.space.room(shape, place)
        if self._over(shape.with_removed(place, high)):
            return None
        while low < high:
            middle = (low + high) // 2
            low, high = (low, middle) if not self._over(shape.with_removed(place, middle)) else (middle + 1, high)
        return shape.with_removed(place, low)

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
