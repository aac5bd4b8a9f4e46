"""The end of a run: its result as it is saved, and is judged."""

from __future__ import annotations

import copy
import tempfile
from collections.abc import Callable
from pathlib import Path

import torch
from torch import Tensor

from ..data.loading import data_config
from ..methods import ToFe
from ..runtime.build import as_given, is_of_transformers
from ..runtime.model import ReducedViT
from ..runtime.pretrained_files import open_pretrained
from ..runtime.saving import check_saves, remade, save
from .calibration import calibrate


def bare(model: ReducedViT) -> ReducedViT:
    """Without what training has put on it: the autocast around `forward` (Accelerate's; the result computes in its
    weights' own precision)."""
    for name in ("forward", "_original_forward"):
        model.__dict__.pop(name, None)
    return model


def check_result_saves(student: ReducedViT) -> None:
    """Raise ValueError where the result could not be saved: before the training, not after it."""
    if not is_of_transformers(student):  # which are made of their own config
        check_saves(bare(student))


def finished(model: ReducedViT, some: Callable[[], list[Tensor]]) -> ReducedViT:
    """The model itself, as it is saved: bare, ToFe's decisions calibrated on `some` images."""
    model = bare(model)
    if any(isinstance(method, ToFe) for method in model.methods):
        calibrate(model, some())
    return model


def as_saved(model: ReducedViT, some: Callable[[], list[Tensor]]) -> ReducedViT:
    """The model to judge in the middle of a run. Where calibration changes what it says, a copy, calibrated as the
    saved one will be; what trains stays as it is."""
    if not any(isinstance(method, ToFe) and method.ragged for method in model.methods):
        return model
    return finished(copy.deepcopy(model), some)


@torch.no_grad()
def save_and_compare(model: ReducedViT, folder: Path, tolerance: float = 1e-4) -> None:
    """Compare the model with what would be loaded again, on the CPU, then save it.

    Raises ValueError where the loaded model would say something else; nothing is written then.
    """
    model = copy.deepcopy(model).cpu().eval()
    images = torch.randn(2, *data_config(model)["input_size"], generator=torch.Generator().manual_seed(0))
    difference = (model(images) - _again(model)(images)).abs().max().item()
    if not difference <= tolerance:
        raise ValueError(f"the model loaded from {folder} would differ by {difference:.3g}: nothing was saved")
    save(as_given(model), folder)


def _again(model: ReducedViT) -> ReducedViT:
    """What would be loaded."""
    if not is_of_transformers(model):
        return remade(model)
    with tempfile.TemporaryDirectory() as folder:
        save(as_given(copy.deepcopy(model)), folder)
        return open_pretrained(folder)[1]
