"""What is looked at before a run starts, so that it does not break off, or end in nothing, hours later."""

from __future__ import annotations

from typing import Any

import torch
from torch import nn

from ..common.errors import OptionError
from ..common.text import counted
from ..data.loading import data_config
from ..runtime.model import ReducedViT
from .objective import check_labels_patches
from .recipes import Recipe


def check_model(model: nn.Module) -> None:
    """Raise ValueError for weights that cannot be trained: half or double precision, or on the meta device."""
    if any(p.is_meta for p in model.parameters()):
        raise ValueError("the model is on the meta device and has no weights: build it on the CPU or a GPU to train it")
    kinds = {p.dtype for p in model.parameters()} - {torch.float32}
    if kinds:
        names = " and ".join(sorted(str(kind).removeprefix("torch.") for kind in kinds))
        raise OptionError(
            f"the model has {names} weights, and they learn in float32: call model.float() first. To compute in "
            "bfloat16, give ",
            {"precision": "bf16"},
        )


def check_recipe(recipe: Recipe, model: Any) -> None:
    """Raise ValueError where the recipe and the model cannot go together."""
    if recipe.labels and model.num_classes < 2:
        raise OptionError(
            f"recipe {recipe.name} learns from labels and the model has "
            f"{counted(model.num_classes, 'class', 'classes')}: use ",
            {"recipe": "distill"},
            ", or give the model a head with ",
            {"num_classes": ...},
        )
    for name in ("epochs", "batch_size"):
        if getattr(recipe, name) < 1:
            raise OptionError({name: getattr(recipe, name)}, ": give a whole number from 1")
    if not recipe.lr > 0:
        raise OptionError({"lr": recipe.lr}, ": give a learning rate above 0")
    if recipe.weights.token_labels:
        check_labels_patches(model)


def check_start(recipe: Recipe, scratch: bool) -> None:
    """Raise ValueError where a model with random weights would have to teach."""
    if scratch and recipe.teaches:
        raise OptionError(
            f"recipe {recipe.name} learns from the dense model, and from scratch there is none: use ",
            {"recipe": "evit_scratch"},
            " or ",
            {"recipe": "bat_scratch"},
            ", or ",
            {"logit_kl": 0, "features": 0, "token_mse": 0, "approximation": 0, "token_labels": 0},
        )


def check_processes(accelerator) -> None:
    """Raise ValueError for more processes on this machine than devices."""
    devices = torch.cuda.device_count()
    if accelerator.device.type == "cuda" and accelerator.local_process_index >= devices:
        raise ValueError(
            f"more processes than devices: process {accelerator.local_process_index + 1} of {devices} GPUs"
        )


@torch.no_grad()
def check_inference(student: ReducedViT) -> None:
    """Run the student once as it will be used: its training form passes over what only inference cannot do.

    Raises ValueError as the model does.
    """
    training = student.training
    size = data_config(student)["input_size"]
    student.eval()(torch.randn(2, *size, generator=torch.Generator().manual_seed(0)))
    student.train(training)
