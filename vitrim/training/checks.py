"""What is looked at before a run starts, so that it does not break off, or end in nothing, hours later."""

from __future__ import annotations

from typing import Any

import torch
from torch import nn

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
        raise ValueError(
            f"the model has {names} weights, and they learn in float32: call model.float() first. To compute in "
            "bfloat16, take precision bf16 (--precision bfloat16)"
        )


def check_recipe(recipe: Recipe, model: Any) -> None:
    """Raise ValueError where the recipe and the model cannot go together."""
    if recipe.labels and model.num_classes < 2:
        raise ValueError(
            f"recipe {recipe.name} learns from labels and the model has {model.num_classes} classes: use "
            "--recipe distill, or give the model a head with --num-classes"
        )
    if recipe.batch_size < 1 or recipe.epochs < 1 or not recipe.lr > 0:
        given = f"epochs {recipe.epochs}, batch size {recipe.batch_size}, lr {recipe.lr}"
        raise ValueError(f"{given}: give whole numbers from 1, and a learning rate above 0")
    if recipe.weights.token_labels:
        check_labels_patches(model)


def check_start(recipe: Recipe, scratch: bool) -> None:
    """Raise ValueError where a model with random weights would have to teach."""
    if scratch and recipe.teaches:
        raise ValueError(
            f"recipe {recipe.name} learns from the dense model, and from scratch there is none: use --recipe "
            "evit_scratch or bat_scratch, or set the weights of logit_kl, features, token_mse, approximation and "
            "token_labels to 0"
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
    size = data_config(student.backbone)["input_size"]
    student.eval()(torch.randn(2, *size, generator=torch.Generator().manual_seed(0)))
    student.train(training)
