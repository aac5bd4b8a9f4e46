"""The student: a reduced copy of the dense model, checked against the recipe and made ready for its losses."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from torch import nn

from ..methods import Method
from ..runtime.build import attach
from ..runtime.model import ReducedViT
from ..runtime.saving import check_saves
from .optim import check_frozen, set_drop_path
from .recipes import NEEDED, Recipe, for_methods


def make_student(
    model: nn.Module, method: str | Method | Sequence[Method], recipe: Recipe, macs: float | None, options: dict
) -> tuple[ReducedViT, Recipe]:
    """The student with weights of its own, and the recipe with the losses that its methods cannot do without.

    Raises ValueError where the recipe and the methods cannot go together.
    """
    student = attach(model, method, macs=macs, copy=True, **options)
    _carry_over(method, student)
    recipe = for_methods(recipe, [_learns_like(m) for m in student.methods])
    check_saves(student)  # before the training, not after it
    _check_losses(recipe, student)
    _check_masks(student)
    check_frozen(student.backbone, recipe.frozen)
    _prepare(student, recipe)
    return student, recipe


def _carry_over(method: str | Method | Sequence[Method], student: ReducedViT) -> None:
    """Methods that have learned already go on from there."""
    given = [] if isinstance(method, str) else [method] if isinstance(method, Method) else method
    for one, own in zip(given, student.methods, strict=False):
        if one.learns:
            own.load_state_dict(one.state_dict())


def _learns_like(method: Method) -> str:
    """The name by which `NEEDED` knows what a method cannot be trained without: other masked ones hold their keep
    rates as DynamicViT does."""
    return "dynamicvit" if method.trains_masked and method.name not in NEEDED else method.name


def _check_losses(recipe: Recipe, student: ReducedViT) -> None:
    names = [m.name for m in student.methods]
    masked = [m.name for m in student.methods if m.trains_masked]
    able: dict[str, Any] = {"cut": ("idlevit",), "approximation": ("tofe",), "budget": ("tofe",)}
    able["ratio"] = tuple(dict.fromkeys(["dynamicvit", "tofe", *masked]))
    for part, methods in able.items():
        if getattr(recipe.weights, part) and not set(methods) & set(names):
            raise ValueError(
                f"recipe {recipe.name} has the loss {part!r}, which only {' and '.join(methods)} can compute, and the "
                f"method is {', '.join(names)}: use another method, --recipe distill, or set its weight to 0"
            )


def _check_masks(student: ReducedViT) -> None:
    """Raise ValueError where a method would train on tokens that another one has only masked: it cannot tell them
    from those that are there."""
    masked = [m for m in student.methods if m.trains_masked]
    for one in masked:
        begins = min((place.block for place in one.places), default=student.body.depth)
        blind = [m for m in student.methods if not m.trains_masked and any(p.block >= begins for p in m.places)]
        if blind:
            raise ValueError(
                f"{one.name} trains on masks over all tokens, and {blind[0].name}, which acts after it, would choose "
                f"among masked tokens too: put {blind[0].name} before block {begins}, or train with one of them"
            )


def _prepare(student: ReducedViT, recipe: Recipe) -> None:
    if hasattr(student.backbone, "token_labels"):
        # LV-ViT: both heads in train mode where token labels are learned, else its prediction there too. Its own
        # mixing of patches would show the student another image than the teacher.
        student.backbone.token_labels, student.backbone.mix_token = bool(recipe.weights.token_labels), False
    for method in student.methods:
        if method.map_of:
            method.map_of = recipe.cut_map if recipe.weights.cut else None
    set_drop_path(student.backbone, recipe.drop_path)
