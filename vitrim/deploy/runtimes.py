"""What runs a model: PyTorch as it is, with packed weights, compiled, or another runtime on an exported file."""

from __future__ import annotations

import tempfile
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from ..backbones import find_family
from ..runtime.model import ReducedViT, for_images, unwrap
from .export import check_counts, export, has_fixed_counts
from .formats import FORMATS
from .opened import OpenedFile
from .optimize import optimize, sharing
from .recording import record
from .writing import beside, saved

Run = Callable[[Tensor], Any]


def prepare(model: nn.Module, runtime: str, batch: Tensor, images: Tensor | None = None) -> Run:
    """What runs the model on batches like this one. Raises ValueError, with the reason, where the runtime cannot.

    images: on which int8 measures its ranges; None: the batch itself, which is enough to tell how fast it is

    Example:
        >>> run = prepare(model, "packed", images)
        >>> run(images).shape
        torch.Size([2, 2])
    """
    if runtime not in RUNTIMES:
        raise ValueError(f"runtime {runtime!r} is not known: choose one of {', '.join(RUNTIMES)}")
    if isinstance(model, OpenedFile):
        _need_float32()
        return model
    return RUNTIMES[runtime](model, batch, batch if images is None else images)


def _eager(model: nn.Module, batch: Tensor, images: Tensor) -> Run:
    return for_images(model)


def _packed(model: nn.Module, batch: Tensor, images: Tensor) -> Run:
    return for_images(optimize(model))


def _compiled(model: nn.Module, batch: Tensor, images: Tensor) -> Run:
    """By inductor, with the weights as constants, which lets it pack them. Graphs break where images keep different
    numbers of tokens, and there alone."""
    reduced = unwrap(model)
    whole = not isinstance(reduced, ReducedViT) or all(has_fixed_counts(method) for method in reduced.methods)
    return torch.compile(for_images(model), fullgraph=whole, options={"freezing": True})


def _exported(model: nn.Module, batch: Tensor, images: Tensor, name: str) -> Run:
    """An exported file for batches of this size, with as many threads as torch has."""
    kind = FORMATS[name]
    kind.require()
    _need_float32()
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / f"model{kind.ending}"
        made = export(model, path, images=batch, batch_size=len(batch), format=name)
        return kind.open(*kind.paths(made.path))


def prepare_int8(model: nn.Module, batch: Tensor, images: Tensor, name: str, way: str = "static") -> Run:
    """The same in int8, its ranges measured on the images. Not judged: speed does not depend on what is predicted."""
    kind = FORMATS[name]
    kind.require()
    _need_float32()
    model = unwrap(model)
    find_family(model.backbone if isinstance(model, ReducedViT) else model)
    check_counts(model)
    bare, size = for_images(sharing(model)).cpu().float().eval(), len(batch)
    made = kind.make(record(bare, torch.zeros_like(batch), any_batch=False), batch, False, "logits")
    parts = [part for part in images.split(size) if len(part) == size]
    with tempfile.TemporaryDirectory() as folder, beside(kind, Path(folder) / f"model{kind.ending}") as files:
        return saved(kind, kind.int8[way](made, parts), {}, files)


def _need_float32() -> None:
    if torch.is_autocast_enabled("cpu"):
        raise ValueError("an exported file computes in float32")


RUNTIMES: dict[str, Callable[[nn.Module, Tensor, Tensor], Run]] = {
    "eager": _eager,
    "packed": _packed,
    "compiled": _compiled,
    "onnx": partial(_exported, name="onnx"),
    "openvino": partial(_exported, name="openvino"),
    "aotinductor": partial(_exported, name="aotinductor"),
    "onnx-int8": partial(prepare_int8, name="onnx"),
    "openvino-int8": partial(prepare_int8, name="openvino"),
}
