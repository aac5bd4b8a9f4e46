"""The plans that a method makes by itself, with one keep rate or one count for all of its places: what a search is held
against."""

from __future__ import annotations

from ..runtime.build import attach
from ..runtime.model import ReducedViT
from .exchange import Cost
from .space import Space

HALVINGS = 8  # of the MACs with which a method's own plan takes as many milliseconds as the budget


class OwnPlans:
    """The method's own plan for each budget; a stack has none.

    Example:
        >>> space = Space(model, ["tome"])
        >>> own = OwnPlans(space, Cost(space.share))
        >>> own(0.7).methods[0], own(0.001)
        (ToMe(r=10), None)
    """

    def __init__(self, space: Space, cost: Cost):
        self.space, self.cost = space, cost
        self._known: dict[float, ReducedViT | None] = {}

    def __call__(self, budget: float) -> ReducedViT | None:
        """The method's own plan for the budget; None: it has none."""
        if budget not in self._known:
            milliseconds = self.cost.by == "latency"
            self._known[budget] = self._within(budget) if milliseconds else self._own(budget)
        return self._known[budget]

    def _own(self, macs: float) -> ReducedViT | None:
        if len(self.space.names) > 1:
            return None
        try:
            only = self.space.prediction_only
            return attach(self.space.body.model, self.space.names[0], macs=macs, prediction_only=only)
        except ValueError:
            return None

    def _within(self, budget: float) -> ReducedViT | None:
        """The method's own plan of most MACs that is within a budget of milliseconds."""
        low, high, best = 0.0, 1.0, None
        for _ in range(HALVINGS):
            middle = (low + high) / 2
            own = self._own(middle)
            if own is not None and self.cost.share(self.space.shape_of(list(own.methods))) > budget:
                high = middle
            else:
                low, best = middle, own or best
        return best
