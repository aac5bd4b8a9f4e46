"""`finetune`: from a dense model, a method and a folder to a reduced model that has learned to live with its tokens."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import nn
from torch.utils.data import DataLoader

from ..data.loading import data_config, open_dataset
from ..methods import Method, ToFe
from ..runtime.cost import image_macs, profile
from ..runtime.model import ReducedViT, unwrap
from ..runtime.storage import load, methods_config, save
from .judge import Judge
from .loop import Run, make_accelerator
from .objective import Objective, Teacher, check_labels_patches, dense_macs, own_counts, restore_blocks
from .photographs import TrainingPhotographs, keeps_random_state, seed_everything, seed_of, unlabelled
from .recipes import Recipe
from .settings import Settings
from .settle import settle, some_of
from .student import make_student


@dataclass(frozen=True)
class Report:
    """What a run came to: the model, the figures of its last judgement, and the files that could not be read."""

    model: ReducedViT
    figures: dict[str, float]
    steps: int
    unreadable: dict[str, str]


@keeps_random_state
def finetune(
    model: nn.Module,
    method: str | Method | Sequence[Method],
    data: str | Path,
    recipe: Recipe,
    settings: Settings,
    *,
    macs: float | None = None,
    judge_on: DataLoader | None = None,
    resume: bool = False,
    limit: int | None = None,
    scratch: bool = False,
    **options: Any,
) -> Report:
    """Fine-tune `model` with a method, and save the result in `settings.out` (for `vitrim.load`).

    model:    the dense model; it stays as it is and teaches, the student is a copy
    data:     training photographs: class folders, or for a recipe without labels any folder of images
    macs, options: as for `vitrim.reduce`. For ToFe `macs` is also the target that its budget loss learns towards
    judge_on: a loader of validation photographs; accuracy and agreement with the dense model after every epoch
    resume:   go on from the last checkpoint in `settings.out`
    limit:    only so many training photographs, drawn at random
    scratch:  the weights of `model` are random: it teaches nothing, and the student is judged alone

    Raises ValueError for what cannot be trained, in one line, and `RunStopped` (one too) for what breaks off.
    """
    model = unwrap(model)
    check_recipe(recipe, model)
    seed_everything(settings.seed)  # learned parts start from random weights
    student, recipe = make_student(model, method, recipe, macs, options)
    check_start(recipe, scratch)
    photographs = open_photographs(data, model, recipe, settings, limit)
    accelerator = make_accelerator(settings, any(m.learns for m in student.methods))
    check_processes(accelerator)
    teacher = make_teacher(model, student, recipe) if recipe.teaches else None
    identity = identity_of(model, student, data, len(photographs), macs)
    beside = None if scratch or judge_on is None else teacher.model if teacher else copy.deepcopy(model)
    judge = Judge(beside, judge_on, settings) if judge_on is not None and accelerator.is_main_process else None
    objective = objective_of(recipe, student, macs)
    run = Run(accelerator, student, teacher, objective, photographs, settings, identity, judge)
    if resume:
        run.resume()
    trained = _bare(run.train())
    if any(isinstance(one, ToFe) for one in trained.methods):
        settle(trained, some_of(photographs.photographs, accelerator.device))
    if accelerator.is_main_process:
        save_and_compare(trained, settings.out)
    accelerator.wait_for_everyone()
    return Report(trained, judge.figures if judge else {}, run.step, run.unreadable)


def make_teacher(model: nn.Module, student: ReducedViT, recipe: Recipe) -> Teacher:
    """A copy of the dense model, which shares no weight with what is trained."""
    after = restore_blocks(student) if recipe.weights.approximation else ()
    return Teacher(copy.deepcopy(model), after, bool(recipe.weights.token_labels))


def _bare(model: ReducedViT) -> ReducedViT:
    """Without the autocast that Accelerate puts around `forward`: the result computes in its weights' own precision."""
    for name in ("forward", "_original_forward"):
        model.__dict__.pop(name, None)
    return model


def check_recipe(recipe: Recipe, model: nn.Module) -> None:
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


def open_photographs(
    data: str | Path, model: nn.Module, recipe: Recipe, settings: Settings, limit: int | None
) -> TrainingPhotographs:
    """Training photographs, labelled or not as the recipe says. Raises ValueError for what cannot be trained on."""
    if recipe.labels:
        photographs = open_dataset(data, model)
        if not hasattr(photographs, "chosen"):
            raise ValueError(
                f"{data} can only be read from start to end, and training needs random access: use a folder"
            )
        if len(photographs.classes.names) == 1:
            only = photographs.classes.names[0]
            raise ValueError(f"{data} has one class ({only}): there is nothing to tell apart; use --recipe distill")
    else:
        photographs = unlabelled(data, data_config(model))
    photographs.chosen = drawn(len(photographs), limit, settings.seed, photographs.chosen)
    return TrainingPhotographs(photographs, recipe.augmentation, settings.seed)


def drawn(size: int, limit: int | None, seed: int, chosen: list[int] | None) -> list[int] | None:
    """`limit` places drawn at random from all; folders come class by class, so the first ones would be of one class."""
    if limit is None or limit >= size:
        return chosen
    if limit < 1:
        raise ValueError(f"limit is {limit}: give a whole number from 1")
    generator = torch.Generator().manual_seed(seed_of(seed, size))
    places = sorted(torch.randperm(size, generator=generator)[:limit].tolist())
    return places if chosen is None else [chosen[place] for place in places]


def check_processes(accelerator) -> None:
    """Raise ValueError for more processes on this machine than devices."""
    there = torch.cuda.device_count()
    if accelerator.device.type == "cuda" and accelerator.local_process_index >= there:
        raise ValueError(f"more processes than devices: process {accelerator.local_process_index + 1} of {there} GPUs")


def objective_of(recipe: Recipe, student: ReducedViT, macs: float | None) -> Objective:
    """The recipe's objective; its budget is `macs` of the dense cost, or what the student's own counts cost."""
    dense = dense_macs(student)
    budget = macs * dense if macs is not None else profile(student).macs

    def counted(witnesses) -> torch.Tensor:
        return image_macs(student, own_counts(student, witnesses))

    rates = tuple(place.keep for method in student.methods for place in method.places if place.keep is not None)
    return Objective(recipe, budget, dense, counted, rates)


def identity_of(model: nn.Module, student: ReducedViT, data, images: int, macs: float | None) -> dict[str, Any]:
    """What makes this run this run."""
    architecture = (getattr(model, "pretrained_cfg", None) or {}).get("architecture", type(model).__name__)
    return {
        "model": architecture,
        "classes": model.num_classes,
        "image_size": list(data_config(model)["input_size"][1:]),
        "methods": repr(methods_config(student)),
        "macs": macs,
        "data": str(data),
        "images": images,
    }


@torch.no_grad()
def save_and_compare(model: ReducedViT, folder: Path, tolerance: float = 1e-4) -> None:
    """Save, load again, and compare the two on the CPU.

    Raises ValueError where the loaded model says something else.
    """
    model = copy.deepcopy(model).cpu().eval()
    save(model, folder)
    again = load(folder)
    images = torch.randn(2, *data_config(model.backbone)["input_size"], generator=torch.Generator().manual_seed(0))
    difference = (model(images) - again(images)).abs().max().item()
    if not difference <= tolerance:
        raise ValueError(
            f"{folder} was written, but the model loaded from it differs by {difference:.3g}: do not use it"
        )
