"""The optimiser and its learning rates: timm's AdamW groups and cosine, and who learns when."""

from __future__ import annotations

from collections.abc import Collection

from timm.optim import create_optimizer_v2, param_groups_layer_decay, param_groups_weight_decay
from timm.scheduler import CosineLRScheduler
from torch import nn
from torch.optim import Optimizer

from ..runtime.model import ReducedViT
from .recipes import Recipe


def make_optimizer(student: ReducedViT, recipe: Recipe) -> Optimizer:
    """AdamW over timm's groups (no decay for biases, norms, positions), with layer decay where asked for.

    The backbone's groups carry `lr_scale`, which timm's schedulers multiply into the rate.
    """
    skip = student.no_weight_decay()
    if recipe.layer_decay < 1:
        groups = param_groups_layer_decay(student, recipe.weight_decay, skip, layer_decay=recipe.layer_decay)
    else:
        groups = param_groups_weight_decay(student, recipe.weight_decay, skip)
    method_ids = {id(p) for p in student.methods.parameters()}
    split = [part for group in groups for part in _split(group, method_ids, recipe.backbone_scale)]
    return create_optimizer_v2(split, opt="adamw", lr=recipe.lr, weight_decay=recipe.weight_decay)


def _split(group: dict, method_ids: set[int], scale: float) -> list[dict]:
    """One group as two: the method's learned parts at the full rate, the backbone's parameters at `scale` of it."""
    rate = group.get("lr_scale", 1.0)
    method = [p for p in group["params"] if id(p) in method_ids]
    backbone = [p for p in group["params"] if id(p) not in method_ids]
    rest = {key: value for key, value in group.items() if key not in ("params", "param_names", "lr_scale")}
    parts = [{**rest, "params": method, "lr_scale": 1.0}, {**rest, "params": backbone, "lr_scale": rate * scale}]
    return [part for part in parts if part["params"]]


def make_schedule(optimizer: Optimizer, recipe: Recipe, steps_per_epoch: int) -> CosineLRScheduler:
    """timm's cosine from the peak to `min_lr`, by optimiser steps, after a linear warm-up. Stateless in the step."""
    return CosineLRScheduler(
        optimizer,
        # A run of one step is at the cosine's peak whatever its length, and timm would warn of a length of 1.
        t_initial=max(2, recipe.epochs * steps_per_epoch),
        lr_min=recipe.min_lr,
        warmup_t=recipe.warmup_epochs * steps_per_epoch,
        warmup_lr_init=min(1e-6, recipe.lr),
        warmup_prefix=False,
        t_in_epochs=False,
    )


def set_learning(student: ReducedViT, recipe: Recipe, epoch: int, still: Collection[str] = ()) -> bool:
    """Freeze the backbone in the first `frozen_epochs`, and always what the recipe names as `frozen` and the parameters
    `still`; whether anything changed."""
    waits = epoch < recipe.frozen_epochs
    before = [p.requires_grad for p in student.backbone.parameters()]
    for name, p in student.backbone.named_parameters():
        p.requires_grad_(not (waits or name in still or name.startswith(recipe.frozen)))
    return before != [p.requires_grad for p in student.backbone.parameters()]


def still_parameters(student: ReducedViT) -> frozenset[str]:
    """Parameters of the backbone that came with `requires_grad=False`: they stay as they are."""
    return frozenset(name for name, p in student.backbone.named_parameters() if not p.requires_grad)


def check_learning(student: ReducedViT, recipe: Recipe) -> None:
    """Raise ValueError for a run, or for first epochs, in which nothing would learn."""
    has_learned, still = any(p.requires_grad for p in student.methods.parameters()), still_parameters(student)
    if has_learned:
        return
    if recipe.frozen_epochs:
        names = " and ".join(method.name for method in student.methods)
        raise ValueError(
            f"frozen_epochs {recipe.frozen_epochs}: the backbone rests in them, and {names} has no learned parts that "
            "could learn meanwhile: set frozen_epochs to 0"
        )
    if all(name in still or name.startswith(recipe.frozen) for name, _ in student.backbone.named_parameters()):
        raise ValueError(
            "nothing would learn: every parameter of the model is frozen. Call model.requires_grad_(True) first, or "
            "name fewer parameters as frozen"
        )


def check_frozen(backbone: nn.Module, frozen: tuple[str, ...]) -> None:
    """Raise ValueError for names that no parameter of the backbone begins with."""
    for start in frozen:
        if not any(name.startswith(start) for name, _ in backbone.named_parameters()):
            some = ", ".join(list(dict.fromkeys(name.split(".")[0] for name, _ in backbone.named_parameters())))
            raise ValueError(f"frozen {start!r}: no parameter of the model begins so; they begin with {some}")
