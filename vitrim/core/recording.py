"""What holds in every graph that is recorded from a run, by torch.jit.trace, torch.export, torch.compile and the
exporters on top of them: it serves batches of any size, and its numbers of tokens are Python numbers.

A recorder sees what is asked of tensors, and takes Python's branches and numbers as they were for the example.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor


def recording() -> bool:
    """Whether a graph is being recorded now, of whatever kind."""
    return torch.jit.is_tracing() or torch.compiler.is_compiling()


def once(owner: Any, name: str, make: Callable[[], Any]) -> Any:
    """What `make` returns, kept on the owner (which is frozen, so that it stays true) and made once. In a graph that is
    being recorded it is made every time: compilers drop what is there twice, and cannot follow the keeping."""
    if recording():
        return make()
    if name not in owner.__dict__:
        owner.__dict__[name] = make()
    return owner.__dict__[name]


def one_image(batch: int) -> bool:
    """Whether there is one image in the batch, and steps between images can be left out. Never in a graph: it may be
    run on more of them, and the sizes that it leaves open must not be asked for."""
    return type(batch) is int and not recording() and batch == 1


def no_image(batch: int) -> bool:
    """Whether the batch is empty; timm's reshapes cannot tell then what a -1 stands for. Not asked in a graph."""
    return type(batch) is int and not recording() and batch == 0


def length(x: Tensor, dim: int) -> int:
    """The size of x in that dimension as a number to count with. torch.jit.trace hands out sizes as tensors, which
    round where Python does not; the number of images alone must stay one."""
    size = x.shape[dim]
    if not isinstance(size, Tensor):
        return size
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", torch.jit.TracerWarning)  # that the number is fixed is meant
        return int(size)


def divided(x: Tensor, dim: int, sizes: tuple[int, ...]) -> Tensor:
    """`x.unflatten(dim, sizes)`, dim counted from the front, sizes without -1. What the older ONNX exporter makes of
    unflatten is for as many images as the example had."""
    return x.view(*x.shape[:dim], *sizes, *x.shape[dim + 1 :])


def image_size(images: Tensor) -> tuple[int, int]:
    """(height, width) of images [b, 3, height, width]."""
    return length(images, -2), length(images, -1)


def grid_of(x: Tensor) -> tuple[int, int]:
    """(height, width) of tokens on their grid, [b, height, width, c]."""
    return length(x, 1), length(x, 2)


def laid_out(part: Tensor) -> Tensor:
    """Part of a tensor, in an exported graph as a copy whose numbers lie side by side. Whether they do so without one
    depends on the number of images, which the graph leaves open."""
    return part.clone(memory_format=torch.contiguous_format) if torch.compiler.is_exporting() else part


def refuse_recording(method: str, instead: str) -> None:
    """Raise ValueError where a graph is being made that must serve other images by itself: one decision for all of
    them is in it, and every image needs its own. torch.compile runs around such decisions."""
    if torch.jit.is_tracing() or torch.compiler.is_exporting():
        raise ValueError(
            f"{method} lets every image keep its own number of tokens, and a traced or exported graph cannot: {instead}"
        )
