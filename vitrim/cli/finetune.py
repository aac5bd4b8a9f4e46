"""`vitrim finetune`: train a reduced model by a recipe, and save it."""

from __future__ import annotations

import os
import warnings
from dataclasses import fields
from typing import Any

import torch

from ..common.extras import require
from ..common.files import check_no_file
from ..common.progress import progress
from ..data.loading import open_dataset, open_loader
from ..data.unlabelled import is_flat
from ..evaluate.timing import as_device, as_dtype
from ..methods.registry import AUTO
from ..runtime.build import UntrainedWarning
from ..runtime.loading import CONFIG, WEIGHTS
from ..training import Interrupted, Recipe, Settings, finetune, get_recipe, override
from ..training.checkpoints import holds_run
from .commands.finetune import MachineOptions, TrainingOptions
from .shared.early_extras import each_extra
from .shared.model import Subject, open_model, open_untrained
from .shared.plans import Plan, one_plan
from .shared.table import say
from .shared.trained import tell

MIXED = {"float32": "no", "bfloat16": "bf16", "float16": "fp16"}  # what Accelerate calls them


def run(config: Any) -> None:
    """Fine-tune what the arguments name."""
    each_extra(require, config)
    from accelerate import PartialState

    _check_device(config.machine)
    settings = _settings(config)
    if config.method.prediction_only:
        raise ValueError("--prediction-only changes nothing in training: give it to evaluate, compare or profile")
    _check_folder(config.training, settings)
    if config.machine.threads:
        torch.set_num_threads(config.machine.threads)
    with progress("preparing"):
        subject, plan = _start(config)
        recipe, judge_on = recipe_of(config), _judging(config, subject.for_images)
    try:
        trained = finetune(
            subject.dense,
            list(plan.model.methods),
            config.training.data,
            recipe,
            settings,
            macs=_budget(config),
            judge_on=judge_on,
            resume=config.training.resume,
            limit=config.training.limit,
            scratch=config.training.scratch,
            class_map=config.training.class_map,
            prediction_only=plan.model.prediction_only,
        )
    except Interrupted as stop:
        if PartialState().is_main_process:
            say(str(stop))
        raise SystemExit(stop.code) from None
    if PartialState().is_main_process:
        tell(config, subject.name, recipe, trained, judge_on)


def _check_device(machine: MachineOptions) -> None:
    """Raise ValueError for a device that is not there, and for numbers that it does not compute in."""
    if machine.device not in (None, "cpu", "cuda"):
        raise ValueError(f"--device {machine.device}: give cpu or cuda; several GPUs by accelerate launch or torchrun")
    device = as_device(machine.device or ("cuda" if torch.cuda.is_available() else "cpu"))
    as_dtype(machine.precision, device)


def _check_folder(training: TrainingOptions, settings: Settings) -> None:
    """Raise ValueError where the run could not be written, or would write over another one or over a saved model."""
    check_no_file(training.out)
    try:
        training.out.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise ValueError(f"--out {training.out} cannot be made: {error.strerror or error}") from None
    if not os.access(training.out, os.R_OK | os.W_OK | os.X_OK):
        raise ValueError(f"--out {training.out} may not be written to: get the right to, or give another --out")
    if holds_run(settings.checkpoints) and not training.resume:
        raise ValueError(f"{training.out} holds a run already: go on with --resume, or give another --out")
    if not training.resume and any((training.out / name).exists() for name in (CONFIG, WEIGHTS)):
        raise ValueError(f"{training.out} holds a saved model already: give another --out, or move that one away")


def _start(config: Any) -> tuple[Subject, Plan]:
    """The dense model and the reduced one, whose learned parts may be random: they are about to be trained."""
    random = config.training.scratch
    subject = open_untrained(config.model, config.machine.seed) if random else open_model(config.model)
    torch.manual_seed(config.machine.seed)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UntrainedWarning)
        return subject, one_plan(subject, config.method, config.machine.seed)


def recipe_of(config: Any) -> Recipe:
    """The recipe that the options name, with what they change about it."""
    recipe = get_recipe(config.training.recipe, small=config.training.short)
    changes = {f.name: getattr(config.change, f.name) for f in fields(config.change)}
    return override(recipe, **{name: value for name, value in changes.items() if value not in (None, ())})


def _budget(config: Any) -> float | None:
    """The budget that turns the method's dial, and that ToFe learns towards; plans have their counts."""
    method = config.method
    return None if method.plan is not None or AUTO in method.method else next(iter(method.macs), None)


def _settings(config: Any) -> Settings:
    machine = config.machine
    return Settings(
        out=config.training.out,
        seed=machine.seed,
        precision=MIXED[machine.precision],
        micro_batch=machine.micro_batch,
        workers=machine.workers,
        save_minutes=machine.save_minutes,
        log_every=machine.log_every,
        compile=machine.compile,
        checkpointing=machine.grad_checkpointing,
        trackers=machine.trackers,
        cpu=machine.device == "cpu",
    )


def _judging(config: Any, model: torch.nn.Module):
    training: TrainingOptions = config.training
    if training.val is None:
        return None
    class_map = None if is_flat(training.val, None) else training.class_map
    options: dict[str, Any] = {"crop_pct": training.crop_pct, "class_map": class_map}
    limit = {"limit": training.val_limit, "seed": config.machine.seed}
    photographs = open_dataset(str(training.val), model, labels=None, **options, **limit)
    return open_loader(photographs, batch_size=32, workers=config.machine.workers)
