"""Who acts when. What is fixed once methods are bound is worked out once, and both the loop and its cost walk it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

from ..core.schedule import Place
from ..methods import Method


@dataclass(frozen=True)
class Step:
    """One method at one of its places.

    restore_before: the block before which its reduction is undone; None: never
    """

    method: Method
    index: int
    restore_before: int | None

    @property
    def place(self) -> Place:
        """The place as it is now: training turns keep rates."""
        return self.method.places[self.index]

    def place_on(self, patches: int) -> Place:
        """The place on an image of so many patches there."""
        place = self.place
        return place if place.patches in (None, patches) else replace(place, patches=patches)

    def acts_on(self, place: Place, n: int) -> bool:
        """Whether the method is to be asked, with n patch tokens: in masked training it decides everywhere."""
        method = self.method
        return (method.masked and method.training) or method.acts_on(place, n)


@dataclass(frozen=True)
class Turn:
    """What happens in one block beside the block itself.

    before:    steps before its attention
    observers: methods that look at its attention
    between:   steps between its attention and its MLP
    closes:    whether what was left outside is put back after it
    """

    block: int
    before: tuple[Step, ...] = ()
    observers: tuple[Method, ...] = ()
    between: tuple[Step, ...] = ()
    closes: bool = False


def plan_turns(methods: Sequence[Method], depth: int) -> tuple[Turn, ...]:
    """One turn for each of `depth` blocks; `methods` are bound."""
    observers = tuple(method for method in methods if method.observes)
    steps = [Step(m, place.index, m.restore_before(place)) for m in methods for place in m.places]
    ends = {step.restore_before for step in steps}

    def acting(block: int, when: str) -> tuple[Step, ...]:
        return tuple(step for step in steps if step.place.block == block and step.method.acts == when)

    return tuple(Turn(i, acting(i, "before"), observers, acting(i, "between"), i + 1 in ends) for i in range(depth))
