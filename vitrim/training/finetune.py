"""`finetune`: from a dense model, a method and a folder to a reduced model that has learned to live with its tokens."""

from __future__ import annotations

import copy
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from torch import nn
from torch.utils.data import DataLoader

from ..backbones import library_of
from ..common.errors import OptionError
from ..common.extras import require
from ..common.progress import hidden, progress
from ..data.classes import Classes, OtherCount, check_same_classes, names_to_carry
from ..data.loading import data_config, open_dataset
from ..data.photographs import Photographs
from ..methods import Method
from ..runtime.build import as_given
from ..runtime.describing import methods_config
from ..runtime.model import ReducedViT, for_images, unwrap
from ..runtime.plan_file import Plan
from ..runtime.profile import profile
from .calibration import some_of
from .checks import check_inference, check_model, check_processes, check_recipe, check_start
from .finish import as_saved, check_result_saves, finished, save_and_compare
from .loop import Run, make_accelerator
from .objective import Objective, Teacher, dense_macs, restore_blocks
from .photographs import TrainingPhotographs, keeps_random_state, seed_everything
from .recipes import Recipe
from .settings import Settings
from .signals import Signals
from .student import make_student
from .validation import Validation


@dataclass(frozen=True)
class FinetuneResult:
    """What a run ends with.

    model:       the trained model, as it was saved and as `vitrim.load` gives it
    figures:     those of `EvaluationResult` that apply to it, in float32, the dense model's `dense_top1` or
                 `dense_knn`, and `untrained_top1` and so on of the reduced model before training, where its method
                 needs none; empty without photographs to judge by
    steps:       optimiser steps
    unreadable:  files that could not be read, each with the reason
    photographs: those that it learned from
    """

    model: Any
    figures: dict[str, float]
    steps: int
    unreadable: dict[str, str]
    photographs: Photographs


@keeps_random_state
def finetune(
    model: nn.Module,
    method: str | Path | Method | Sequence[Method] | Plan,
    data: str | Path,
    recipe: Recipe,
    settings: Settings,
    *,
    macs: float | None = None,
    judge_on: DataLoader | None = None,
    resume: bool = False,
    limit: int | None = None,
    scratch: bool = False,
    class_map: str | Path | Mapping[str, int] | None = None,
    **options: Any,
) -> FinetuneResult:
    """Fine-tune `model` with a method, and save the result in `settings.out` (for `vitrim.load`).

    model:    the dense model; it stays as it is and teaches, the student is a copy
    data:     training photographs: class folders, or for a recipe without labels any folder of images
    method, macs, options: as for `vitrim.reduce`: plans and "auto" too. For ToFe `macs` is also the target that its
              budget loss learns towards
    judge_on: a loader of validation photographs; accuracy and agreement with the dense model after every epoch
    resume:   go on from the last checkpoint in `settings.out`
    limit, class_map: as for `vitrim.data.open_dataset`
    scratch:  the weights of `model` are random: it teaches nothing, and the student is judged alone

    Raises ValueError for what cannot be trained, `RunStopped` where it cannot go on, `Interrupted` at a signal.
    """
    require("train", "finetune")
    with hidden(not settings.show), progress("preparing"):
        start = _prepared(unwrap(model), method, data, recipe, settings, macs, limit, scratch, class_map, options)
    some = partial(some_of, start.photographs.photographs, start.accelerator.device)
    signals = Signals(lockstep=start.accelerator.num_processes > 1)
    judge = _validation(start, None if scratch else start.dense, judge_on, settings, some, signals)
    objective = objective_of(start.recipe, start.student, macs)
    parts = (start.accelerator, start.student, start.teacher, objective, start.photographs, settings, start.identity)
    run = Run(*parts, judge, signals)
    if resume:
        run.resume()
    if judge is not None:
        judge.try_out(start.student)
        judge.begin(start.student)
    return _trained(run, start, judge, settings, some)


def _trained(run: Run, start: _Start, judge: Validation | None, settings: Settings, some: Any) -> FinetuneResult:
    """Train, save, and judge what has been saved."""
    student, main = run.train(), start.accelerator.is_main_process
    with hidden(not (settings.show and main)), progress("saving"):
        trained = finished(student, some)
        if main:
            save_and_compare(trained, settings.out)
    figures = judge.final(trained) if judge is not None else {}
    start.accelerator.wait_for_everyone()
    return FinetuneResult(as_given(trained), figures, run.step, run.unreadable, start.photographs.photographs)


@dataclass(frozen=True)
class _Start:
    """What a run begins with, once nothing in it can fail any more."""

    dense: nn.Module
    student: ReducedViT
    teacher: Teacher | None
    recipe: Recipe
    photographs: TrainingPhotographs
    accelerator: Any
    identity: dict[str, Any]


def _prepared(
    model: nn.Module, method: Any, data: Any, recipe: Recipe, settings: Settings, macs: float | None,
    limit: int | None, scratch: bool, class_map: Any, options: dict[str, Any],
) -> _Start:  # fmt: skip
    """Everything checked that can be missed before training, in the order in which it is cheap."""
    described: Any = for_images(model)
    check_model(model)
    check_recipe(recipe, described)
    seed_everything(settings.seed)  # learned parts start from random weights
    student, recipe = make_student(model, method, recipe, macs, options)
    check_start(recipe, scratch)
    check_result_saves(student)
    check_inference(student)
    photographs = open_photographs(data, described, recipe, settings, limit, class_map)
    accelerator = make_accelerator(settings, any(m.learns for m in student.methods))
    check_processes(accelerator)
    teacher = make_teacher(model, student, recipe) if recipe.teaches else None
    identity = identity_of(model, student, data, len(photographs), macs)
    identity |= {} if class_map is None else {"class_map": photographs.photographs.classes.mapping}
    return _Start(model, student, teacher, recipe, photographs, accelerator, identity)


def _validation(
    start: _Start, dense: nn.Module | None, loader: DataLoader | None, settings: Settings, some: Any, signals: Signals
) -> Validation | None:
    """What judges the student in the first process, beside the dense model; None without photographs to judge by."""
    learned = start.photographs.photographs.classes
    if isinstance(judged := getattr(getattr(loader, "dataset", None), "classes", None), Classes):
        check_same_classes(learned, judged, "the validation folder")
    record_names(start.student, learned)
    if loader is None or not start.accelerator.is_main_process:
        return None
    beside = None if dense is None else start.teacher.model if start.teacher else copy.deepcopy(dense)
    return Validation(beside, loader, settings, partial(as_saved, some=some), signals.leave_if_told)


def record_names(student: ReducedViT, learned: Classes) -> None:
    """Let the student carry the names of its classes, where it has none."""
    names = names_to_carry(learned, student.num_classes, student.pretrained_cfg.get("label_names"))
    if names:
        library_of(student.backbone).record_data(student.backbone, {"label_names": names})


def make_teacher(model: nn.Module, student: ReducedViT, recipe: Recipe) -> Teacher:
    """A copy of the dense model, which shares no weight with what is trained."""
    after = restore_blocks(student) if recipe.weights.approximation else ()
    return Teacher(copy.deepcopy(model), after, bool(recipe.weights.token_labels))


def _labelled(data: str | Path, model: nn.Module, **options: Any) -> Any:
    try:
        return open_dataset(data, model, **options)
    except OtherCount as error:
        raise OptionError(
            *error.parts, "; or, to learn them anew, create the model with ", {"num_classes": error.count}
        ) from None


def open_photographs(
    data: str | Path,
    model: nn.Module,
    recipe: Recipe,
    settings: Settings,
    limit: int | None,
    class_map: str | Path | Mapping[str, int] | None = None,
) -> TrainingPhotographs:
    """Training photographs, labelled or not as the recipe says. Raises ValueError for what cannot be trained on."""
    options: dict[str, Any] = {"limit": limit, "seed": settings.seed}
    options |= {"class_map": class_map} if recipe.labels else {"labels": False}
    photographs: Any = _labelled(data, model, **options) if recipe.labels else open_dataset(data, model, **options)
    if not hasattr(photographs, "chosen"):
        raise ValueError(f"{data} can only be read from start to end, and training needs random access: use a folder")
    if len(photographs.classes.names) == 1:
        only = photographs.classes.names[0]
        raise OptionError(f"{data} has one class ({only}), and nothing to tell apart: use ", {"recipe": "distill"})
    return TrainingPhotographs(photographs, recipe.augmentation, settings.seed)


def objective_of(recipe: Recipe, student: ReducedViT, macs: float | None) -> Objective:
    """The recipe's objective; its budget is `macs` of the dense cost, or what the student's own counts cost."""
    dense = dense_macs(student)
    budget = macs * dense if macs is not None else profile(student).macs
    return Objective(recipe, budget, dense, student)


def identity_of(model: nn.Module, student: ReducedViT, data, images: int, macs: float | None) -> dict[str, Any]:
    """What makes this run this run."""
    architecture, described = library_of(model).architecture(model) or type(model).__name__, for_images(model)
    return {
        "model": architecture,
        "classes": described.num_classes,
        "image_size": list(data_config(described)["input_size"][1:]),
        "methods": repr(methods_config(student)),
        "macs": macs,
        "data": str(data),
        "images": images,
    }
