"""Models of shapes alone, on the meta device: quick to make, since nothing is drawn that has nowhere to be."""

from __future__ import annotations

from collections.abc import Generator
from contextlib import contextmanager

import torch
from torch import Tensor
from torch.overrides import TorchFunctionMode

# With which layers initialise. On the meta device torch runs each in Python, for nothing.
_FILLING = {
    getattr(Tensor, name) for name in ("uniform_", "normal_", "erfinv_", "mul_", "add_", "clamp_", "fill_", "zero_")
}


class Undrawn(TorchFunctionMode):
    """Leaves out what would fill a tensor of the meta device: that has no effect, and takes ten times as long as
    building the model."""

    def __torch_function__(self, func, types, args=(), kwargs=None):
        if func in _FILLING and args and isinstance(args[0], Tensor) and args[0].is_meta:
            return args[0]
        return func(*args, **(kwargs or {}))


@contextmanager
def on_meta() -> Generator[None]:
    """What is made, is made on the meta device, and nothing is filled in."""
    with torch.device("meta"), Undrawn():
        yield
