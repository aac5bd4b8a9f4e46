"""Take wrappers off a model: the one place that knows how torch, accelerate and timm put a model inside another."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from torch import nn

_PARALLEL = (nn.parallel.DistributedDataParallel, nn.DataParallel)


class Adapter(nn.Module):
    """A model that is called in another way, and says of images and classes what timm's models say: no wrapper for
    `innermost`, which is asked for just that.

    called: the model as it was
    """

    def __init__(self, model: nn.Module):
        super().__init__()
        self.called = model


def innermost(model: Any) -> nn.Module:
    """The model inside wrappers of every kind: what is held as `module` (parallel training, averages of weights), as
    `_orig_mod` (torch.compile), or as `ema` by an average that is no module itself. For reading what a model says."""
    while True:
        if not isinstance(model, nn.Module) and hasattr(model, "ema"):
            model = model.ema
        elif hasattr(model, "module"):
            model = model.module
        elif hasattr(model, "_orig_mod"):
            model = model._orig_mod
        else:
            return model


def unwrap(model: nn.Module, check: Callable[[nn.Module], None]) -> nn.Module:
    """The model inside torch.compile's and DistributedDataParallel's wrappers, and `Adapter`, alone, to be run without
    them. Other wrappers stay, so that they can be refused by name.

    check: called with each wrapper before it is taken off; raises ValueError where something on it would be lost
    """
    while True:
        inner = getattr(model, "_orig_mod", None) or (model.module if isinstance(model, _PARALLEL) else None)
        inner = model.called if isinstance(model, Adapter) else inner
        if inner is None:
            return model
        check(model)
        model = inner
