"""The student: a reduced copy of the dense model, checked against the recipe and made ready for its losses."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from torch import nn

from ..backbones import library_of
from ..common.errors import OptionError
from ..methods import METHODS, Method
from ..runtime.build import attach
from ..runtime.model import ReducedViT
from ..runtime.plan_file import Plan
from .optim import check_frozen, check_learning
from .recipes import Recipe, for_methods
from .shares import learns_counts, turns_by_schedule


def make_student(
    model: nn.Module,
    method: str | Path | Method | Sequence[Method] | Plan,
    recipe: Recipe,
    macs: float | None,
    options: dict[str, Any],
) -> tuple[ReducedViT, Recipe]:
    """The student with weights of its own, and the recipe with the losses that its methods cannot do without.

    Raises ValueError where the recipe and the methods cannot go together.
    """
    student = attach(model, method, macs=macs, copy=True, **options)
    _carry_over(method, student)
    recipe = for_methods(recipe, student.methods)
    _check_masks(student, recipe)
    _check_losses(recipe, student)
    _check_schedule(recipe, student)
    check_frozen(student.backbone, recipe.frozen)
    check_learning(student, recipe)
    _prepare(student, recipe)
    return student, recipe


def _carry_over(method: str | Path | Method | Sequence[Method] | Plan, student: ReducedViT) -> None:
    """Methods that have learned already go on from there. Those of a name or a plan have not."""
    given = [method] if isinstance(method, Method) else method if isinstance(method, Sequence) else []
    for trained, fresh in zip(given, student.methods, strict=False):
        if isinstance(trained, Method) and trained.learns:
            fresh.load_state_dict(trained.state_dict())


def _check_losses(recipe: Recipe, student: ReducedViT) -> None:
    for part in ("cut", "approximation", "budget", "ratio"):
        if getattr(recipe.weights, part) and not any(part in m.losses for m in student.methods):
            able = " and ".join(_with_loss(part))
            raise OptionError(
                f"recipe {recipe.name} has the loss {part!r}, which only {able} can compute, and the method is "
                f"{', '.join(m.name for m in student.methods)}: use another method, ",
                {"recipe": "distill"},
                " or ",
                {part: 0},
            )
    _check_cut(recipe, student)
    if recipe.weights.budget:
        _check_budget(student.methods)


def _with_loss(part: str) -> list[str]:
    """The names of vitrim's methods that this part of a loss is for."""
    return sorted(name for name, cls in METHODS.items() if cls.has_defaults() and part in cls().losses)


def _check_budget(methods: Sequence[Method]) -> None:
    """Raise ValueError where a method would have whole numbers to go on from, and a budget has counts that learn."""
    learning = [m for m in methods if learns_counts(m)]
    begins = min(m.places[0].block for m in learning)
    for other in methods:
        if other not in learning and any(place.block >= begins for place in other.places):
            raise ValueError(
                f"{learning[0].name} learns its counts towards a budget, and {other.name} acts on what it leaves: put "
                f"{other.name} before block {begins}, or set the weight of budget to 0 and that of ratio above 0, "
                "which holds each place to its own share"
            )


def _check_cut(recipe: Recipe, student: ReducedViT) -> None:
    """Raise ValueError where the cut loss has no idle token to look at."""
    idling = [m for m in student.methods if "cut" in m.losses]
    grid = student.body.grid()
    counts = [(m, place, math.prod(student.body.grid_at(place.block, grid))) for m in idling for place in m.places]
    if recipe.weights.cut and all(m.count(place, n) == n and not m.trains_masked for m, place, n in counts):
        raise ValueError("no block idles, so there is no token cut loss: lower the keep rate, or set its weight to 0")


def _check_schedule(recipe: Recipe, student: ReducedViT) -> None:
    """Raise ValueError where a schedule has no keep rate to turn."""
    if (recipe.keep_start or recipe.keep_epochs) and not any(map(turns_by_schedule, student.methods)):
        names = " and ".join(m.name for m in student.methods)
        raise ValueError(
            f"keep_start {recipe.keep_start}, keep_epochs {recipe.keep_epochs}: a schedule of keep rates, and {names} "
            "has none that it could turn: set both to 0"
        )


def _check_masks(student: ReducedViT, recipe: Recipe) -> None:
    """Raise ValueError where a method would train on tokens that another one has only masked: it cannot tell them
    from those that are there."""
    for masked in (m for m in student.methods if m.trains_masked):
        for place in masked.places:
            end = masked.restore_before(place)
            span = range(place.block, student.body.depth if end is None else end)
            for other in student.methods:
                if other is not masked and _blind_to_masks(other, span, recipe):
                    raise ValueError(
                        f"{masked.name} trains on masks over all tokens, and {other.name}, which acts after it, would "
                        f"choose among masked tokens too: put {other.name} before block {place.block}, or train with "
                        "one of them"
                    )


def _blind_to_masks(method: Method, span: range, recipe: Recipe) -> bool:
    """Whether a method looks at tokens in blocks where some of them are masked, and does not know it."""
    if method.trains_masked:  # it knows; the attention map of a cut loss does not
        return bool(recipe.weights.cut and "cut" in method.losses) and any(p.block in span for p in method.places)
    if method.observes:
        return any(place.block > span.start for place in method.places)
    return any(p.block in span and (p.block > span.start or method.acts == "between") for p in method.places)


def _prepare(student: ReducedViT, recipe: Recipe) -> None:
    if hasattr(student.backbone, "token_labels"):
        # LV-ViT: both heads in train mode where token labels are learned, else its prediction there too. Its own
        # mixing of patches would show the student another image than the teacher.
        student.backbone.token_labels, student.backbone.mix_token = bool(recipe.weights.token_labels), False
    library_of(student.backbone).set_drop_path(student.backbone, recipe.drop_path)
