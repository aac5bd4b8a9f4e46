"""Who acts when. What is fixed once methods are bound is worked out once, and both the loop and its cost walk it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

from ..core.evidence import Evidence
from ..core.joining import Join
from ..core.recording import recording
from ..core.reductions import Fuse, Keep, Merge, Reduction
from ..core.schedule import Place
from ..core.tokens import Tokens
from ..methods import Method, is_own
from .decisions import check_decision


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

    def decide(self, tokens: Tokens, evidence: Evidence, place: Place) -> Reduction | None:
        """The method's decision. Raises ValueError where it leaves another number of tokens than its `count` says, by
        which plans, costs and budgets go."""
        decision = self.method(tokens, evidence, place)
        if decision is not None and not is_own(type(self.method)) and not recording():
            check_decision(self.method.name, decision, tokens)
        if decision is not None and _plans(self.method) and not recording():
            left, planned = _left(decision), self.method.count(place, tokens.n)
            if type(left) is type(planned) is int and left != planned:  # a size may be a symbol
                raise ValueError(
                    f"method {self.method.name!r} leaves {left} of {tokens.n} patch tokens in block {place.block}, and "
                    f"its count says {planned}: let forward and count agree"
                )
        return decision


def _plans(method: Method) -> bool:
    """Whether its `count` says how many tokens are left, in every image."""
    return method.counts == "fixed" and type(method).count is not Method.count


def _left(decision: Reduction) -> int | None:
    """Patch tokens after it, where its shapes tell; a mask leaves all."""
    if isinstance(decision, (Merge, Join)):
        return decision.groups
    if isinstance(decision, Keep):
        return decision.index.shape[1]
    return decision.index.shape[1] + 1 if isinstance(decision, Fuse) else None


@dataclass(frozen=True)
class Turn:
    """What happens in one block beside the block itself.

    before:    steps before its attention
    observers: methods that look at its attention
    between:   steps between its attention and its MLP
    followers: methods that note how far tokens have moved in it
    closes:    whether what was left outside is put back after it
    predicts:  whether it computes the prefix tokens alone, where nothing but the prediction is asked for
    """

    block: int
    before: tuple[Step, ...] = ()
    observers: tuple[Method, ...] = ()
    between: tuple[Step, ...] = ()
    followers: tuple[Method, ...] = ()
    closes: bool = False
    predicts: bool = False


def plan_turns(methods: Sequence[Method], depth: int, prediction_only: bool = False) -> tuple[Turn, ...]:
    """One turn for each of `depth` blocks; `methods` are bound. prediction_only: as for `reduce`."""
    observers = tuple(method for method in methods if method.observes)
    steps = [Step(m, place.index, m.restore_before(place)) for m in methods for place in m.places]
    ends = {step.restore_before for step in steps}

    def acting(block: int, when: str) -> tuple[Step, ...]:
        return tuple(step for step in steps if step.place.block == block and step.method.acts == when)

    def following(block: int) -> tuple[Method, ...]:
        return tuple(method for method in methods if method.follows and method.place(block + 1) is not None)

    return tuple(
        Turn(
            *(i, acting(i, "before"), observers, acting(i, "between"), following(i)),
            *(i + 1 in ends, prediction_only and i + 1 == depth),
        )
        for i in range(depth)
    )
