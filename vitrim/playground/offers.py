"""What a visitor may pick: the models that were opened at the start, and the methods that run on each untrained."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from torch import nn

from ..methods import METHODS
from ..runtime.budget import reach
from ..runtime.fitting import attach_fitting
from ..runtime.model import ReducedViT
from ..runtime.profile import profile
from ..view.looking import setting_of

SAVED = "saved"  # the choice of a folder's own methods


@dataclass(frozen=True)
class Offer:
    """A model, and what can be done to it.

    dense:   on the device where it runs
    reaches: for each method the smallest and the largest share of the dense cost that it can be asked for
    saved:   the reduced model of the folder that the dense one comes from
    gmacs:   of the dense model
    """

    dense: nn.Module
    reaches: Mapping[str, tuple[float, float]]
    saved: ReducedViT | None
    gmacs: float
    seed: int = 0

    @property
    def choices(self) -> dict[str, str]:
        """What may be picked, by what it is called: a folder's own methods first, as they were saved."""
        own = {} if self.saved is None else {SAVED: "as saved"}
        return {**own, **{name: METHODS[name].__name__ for name in self.reaches}}

    def about(self, method: str) -> str:
        """What one of the choices does, in words."""
        return setting_of(self.saved) if method == SAVED and self.saved is not None else METHODS[method].title

    def reduced(self, method: str, share: float) -> ReducedViT:
        """The model with that method at that share of the dense cost; a folder's own methods as they are.

        Raises ValueError for what is not offered, and for a share that the method cannot reach.
        """
        if method == SAVED and self.saved is not None:
            return self.saved
        if method not in self.reaches:
            raise ValueError("This model does not run that method here. Pick one of the list.")
        low, _ = self.reaches[method]
        if not low <= share <= 1:
            raise ValueError(
                f"{100 * share:.3g} % is out of reach: here {METHODS[method].__name__} can cost {100 * low:.3g} to "
                "100 % of the dense model's MACs."
            )
        return attach_fitting(self.dense, method, self.seed, macs=share)


def offer(dense: nn.Module, saved: ReducedViT | None = None, seed: int = 0) -> Offer:
    """What can be offered of a model: every method that it runs without training.

    saved: a reduced model over the same weights, which is offered as it is

    Raises ValueError where no method is left.

    Example:
        >>> one = offer(model)
        >>> list(one.choices)[:3], one.reaches["evit"]
        (['evit', 'bat', 'idlevit'], (0.417, 1.0))
        >>> one.reduced("evit", 0.1)
        Traceback (most recent call last):
        ValueError: 10 % is out of reach: here EViT can cost 41.7 to 100 % of the dense model's MACs.
    """
    reaches, reason = {}, ""
    for name in METHODS:
        try:
            fast = attach_fitting(dense, name, seed)
        except ValueError as error:
            reason = reason or str(error)
            continue
        if not any(method.learns for method in fast.methods):
            reaches[name] = reach(fast.body, list(fast.methods))
    if not reaches and saved is None:
        raise ValueError(f"the model runs none of the methods without training: {reason}")
    return Offer(dense, reaches, saved, profile(dense).gmacs, seed)
