"""One forward through a model's parts, as far as it minds what sits on the model: looks at it first, runs the hooks of
the modules that it goes around, and writes into nothing that somebody else may hold.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor, nn

from ..core.recording import recording
from . import hooks
from .admission import Around, is_fresh, look_over, look_over_traced
from .layers import has_hooks


class Visitor(ABC):
    """What every family's adapter does for what sits on its model; an adapter serves one forward.

    hooked:   whether hooks sit on modules that the loop goes around
    in_place: whether sums may be written into a branch's memory: without gradients, where nobody else can hold it
    """

    def __init__(self, model: nn.Module):
        self.model: Any = model  # each family knows what its models have
        self.looked, self.hooked, self.in_place = False, False, False
        self._inside: dict[nn.Module, hooks.Inside] = {}

    @abstractmethod
    def around(self) -> Around:
        """The modules that the loop goes around, with the types that they may have."""

    @abstractmethod
    def all_blocks(self) -> Iterable[nn.Module]:
        """The blocks, in order."""

    def is_fresh(self) -> bool:
        """Whether what the branches of all blocks give is nobody else's."""
        return is_fresh(self.all_blocks())

    def look(self) -> None:
        """Look over the model, once. Raises ValueError for what would be lost on it."""
        if self.looked:
            return
        compiling = torch.compiler.is_compiling()
        found = look_over_traced(id(self.model), type(self)) if compiling else look_over(self.model, type(self))
        trouble, self.hooked = found
        if trouble:
            raise ValueError(trouble)
        apart = self.hooked or torch.is_grad_enabled() or recording()
        self.looked, self.in_place = True, not apart and self.is_fresh()

    def hooks_of_its_own(self) -> bool:
        """Whether somebody has put hooks on these very modules, and not on all modules there are, as profilers do."""
        return self.hooked and any(has_hooks(module) for module, _ in self.around())

    def hooks_at_the_end(self) -> bool:
        """Whether somebody has put hooks on the last block, a part of it, or what comes after it."""
        last = list(self.all_blocks())[-1]
        return any(has_hooks(part) for module in (last, *self.after_blocks()) for part in module.modules())

    def after_blocks(self) -> Iterable[nn.Module]:
        """What the model runs after its blocks."""
        return (module for name, module in self.model.named_children() if "norm" in name or "head" in name)

    def receive(self, images: Tensor) -> Tensor:
        """The images after the pre-hooks of the model itself, where all of it is run."""
        self.look()
        if self.hooked:
            images, self._inside[self.model] = hooks.before(self.model, images, {})
        return images

    def deliver(self, out: Any) -> Any:
        """The model's output after its hooks."""
        return hooks.after(self.model, self._inside.pop(self.model), out) if self.hooked else out

    def before(self, module: nn.Module, x: Tensor) -> Tensor:
        """x after the pre-hooks of a module that the loop goes around and is about to run the parts of."""
        if not self.hooked:
            return x
        given, self._inside[module] = hooks.before(module, x, hooks.UnseenKeywords(module))
        return _same_shape(module, x, given)

    def after(self, module: nn.Module, x: Tensor, *beside: Any) -> Tensor:
        """x after the hooks of that module, whose parts have run. beside: what it returns in a tuple with x."""
        inside = self._inside.pop(module, None)
        if inside is None:
            return x
        given = hooks.after(module, inside, (x, *beside) if beside else x)
        return _same_shape(module, x, given[0] if beside and isinstance(given, tuple) and given else given)

    def add(self, x: Tensor, branch: Tensor) -> Tensor:
        """x + branch."""
        return add_residual(x, branch) if self.in_place else x + branch


def add_residual(x: Tensor, branch: Tensor) -> Tensor:
    """x + branch, of a branch that nobody else holds: where no gradient is asked for, the sum goes into its memory,
    since on CPU a fresh [b, n, c] costs more than the addition. The bits are the same, and so must be the strides:
    kernels add in the order in which numbers lie."""
    alike = branch.dtype == x.dtype and branch.stride() == x.stride()
    if branch.requires_grad or x.requires_grad or not alike:
        return x + branch
    return branch.add_(x)


def _same_shape(module: nn.Module, x: Tensor, given: Tensor) -> Tensor:
    if not isinstance(given, Tensor) or given.shape != x.shape:
        shape = list(given.shape) if isinstance(given, Tensor) else type(given).__name__
        raise ValueError(f"a hook of {type(module).__name__} turns {list(x.shape)} into {shape}: give the same shape")
    return given
