"""What runs a model: PyTorch as it is, with packed weights, compiled, or another runtime on an exported file."""

from __future__ import annotations

import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from .export import export
from .formats import FORMATS
from .optimize import optimize

Run = Callable[[Tensor], Any]


def prepare(model: nn.Module, runtime: str, batch: Tensor) -> Run:
    """What runs the model on batches like this one. Raises ValueError, with the reason, where the runtime cannot.

    Example:
        >>> run = prepare(model, "packed", images)
        >>> run(images).shape
        torch.Size([2, 2])
    """
    if runtime not in RUNTIMES:
        raise ValueError(f"runtime {runtime!r} is not known: choose one of {', '.join(RUNTIMES)}")
    return RUNTIMES[runtime](model, batch)


def _eager(model: nn.Module, batch: Tensor) -> Run:
    return model


def _packed(model: nn.Module, batch: Tensor) -> Run:
    return optimize(model)


def _compiled(model: nn.Module, batch: Tensor) -> Run:
    """By inductor, with the weights as constants, which lets it pack them."""
    return torch.compile(model, fullgraph=True, options={"freezing": True})


def _onnx(model: nn.Module, batch: Tensor) -> Run:
    """ONNX Runtime on a file for batches of this size, with as many threads as torch has."""
    kind = FORMATS[".onnx"]
    kind.require()
    if torch.is_autocast_enabled("cpu"):
        raise ValueError("an exported file computes in float32")
    with tempfile.TemporaryDirectory() as folder:
        made = export(model, Path(folder) / "model.onnx", images=batch, batch_size=len(batch))
        return kind.open(made.path)


RUNTIMES: dict[str, Callable[[nn.Module, Tensor], Run]] = {
    "eager": _eager,
    "packed": _packed,
    "compiled": _compiled,
    "onnx": _onnx,
}
