"""`vitrim finetune`: train a reduced model by a recipe, and save it."""

from __future__ import annotations

import typing
import warnings
from collections.abc import Sequence
from dataclasses import dataclass, field, fields, make_dataclass
from pathlib import Path
from typing import Annotated, Any, Literal

import torch

from ..common.extras import require
from ..common.files import check_output
from ..data.loading import open_dataset, open_loader
from ..evaluate.timing import as_dtype
from ..runtime.build import UntrainedWarning
from ..runtime.loading import CONFIG, WEIGHTS
from ..training import (
    RECIPES,
    Augmentation,
    Interrupted,
    Recipe,
    Settings,
    Weights,
    finetune,
    get_recipe,
    override,
)
from ..training.checkpoints import holds_run
from .shared.method_options import method_options_class
from .shared.model import Subject, open_model, open_untrained
from .shared.options import ModelOptions, OutputOptions, hinted
from .shared.parse import parse
from .shared.plans import Plan, one_plan
from .shared.table import say
from .shared.trained import tell

MethodOptions: Any = method_options_class("several values: one for each of the method's places")


@dataclass(kw_only=True)
class TrainingOptions:
    """What to learn from, and where to write."""

    data: Path
    """training photographs: one folder per class, or for a recipe without labels any folder of images"""
    out: Path
    """folder for the result, its checkpoints and its figures (steps.csv, epochs.csv)"""
    val: Annotated[Path | None, hinted("none: nothing is judged")] = None
    """validation photographs, one folder per class; judged after every epoch beside the dense model"""
    val_crop_pct: Annotated[float | None, hinted("the model's own")] = None
    """share of the resized validation image that the centre crop keeps"""
    limit: Annotated[int | None, hinted("all")] = None
    """only so many training photographs, drawn at random, as many of each class as there can be"""
    class_map: Annotated[Path | None, hinted("none: by the names")] = None
    """which class of the model each name is: a file with lines `name,index`, or JSON such as {"cat": 0, "dog": 1}"""
    recipe: Literal[tuple(RECIPES)] = "distill"  # ty: ignore[invalid-type-form]
    """the published run; distill needs no labels"""
    scratch: bool = False
    """start from random weights, not from trained ones (evit_scratch, bat_scratch; no recipe that has a teacher)"""
    short: bool = False
    """the recipe's form for small machines: 1 epoch, batches of 32, light augmentation"""
    resume: bool = False
    """go on from the last checkpoint in --out"""


@dataclass(kw_only=True)
class MachineOptions:
    """How to carry it out. Under torchrun or accelerate launch it runs on all their processes."""

    cpu: bool = False
    """use the CPU even where there is a GPU"""
    precision: Literal["no", "bf16", "fp16"] = "no"
    """mixed precision"""
    micro_batch: Annotated[int | None, hinted("the whole batch")] = None
    """images that a process computes at once; the batch is accumulated from these"""
    workers: int = 1
    """processes that decode images, for each process that trains"""
    threads: Annotated[int | None, hinted("torch's own choice")] = None
    """CPU threads of torch"""
    save_minutes: float = 10.0
    """write a checkpoint this often, besides every epoch's end"""
    log_every: int = 10
    """steps between the rows of steps.csv"""
    compile: bool = False
    """torch.compile the student"""
    grad_checkpointing: bool = False
    """recompute blocks in the backward pass instead of storing them"""
    trackers: tuple[Literal["tensorboard", "trackio", "wandb"], ...] = ()
    """where else to log"""
    seed: int = 0
    """for everything that is drawn"""


def _field_options(cls: Any) -> list[tuple[str, Any, Any]]:
    """Every field of a recipe's part as an option that is None where nobody typed it."""
    hints: Any = typing.get_type_hints(cls)
    skipped = ("name", "method", "weights", "augmentation", "labels")
    names = [f.name for f in fields(cls) if f.name not in skipped]
    return [(name, Annotated[hints[name] | None, hinted("the recipe's")], field(default=None)) for name in names]


ChangeOptions: Any = make_dataclass(
    "ChangeOptions",
    [option for cls in (Recipe, Weights, Augmentation) for option in _field_options(cls)],
    kw_only=True,
    namespace={"__doc__": "Fields of the recipe to change (docs/recipes says what they mean)."},
)


@dataclass(kw_only=True)
class FinetuneConfig:
    """Fine-tune a reduced model, with labels or without.

    The student is a copy of the dense model, which teaches where the recipe has a teacher. A run can be interrupted at
    any moment: --resume goes on from its last checkpoint. The result is a folder for --checkpoint and vitrim.load.
    """

    model: ModelOptions
    method: MethodOptions
    training: TrainingOptions
    change: ChangeOptions
    machine: MachineOptions
    output: OutputOptions


def run(arguments: Sequence[str], prog: str) -> None:
    """Fine-tune what the arguments name."""
    config = parse(FinetuneConfig, arguments, prog)
    require("train", prog)
    from accelerate import PartialState

    check_output(config.output.json)
    _check_precision(config.machine)
    settings = _settings(config)
    _check_folder(config.training, settings)
    if config.machine.threads:
        torch.set_num_threads(config.machine.threads)
    subject, plan = _start(config)
    recipe, judge_on = recipe_of(config), _judging(config, subject.dense)
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
        )
    except Interrupted as stop:
        if PartialState().is_main_process:
            say(str(stop))
        raise SystemExit(stop.code) from None
    if PartialState().is_main_process:
        tell(config, subject.name, recipe, trained, judge_on)


def _check_precision(machine: MachineOptions) -> None:
    """Raise ValueError where the device that a run would take does not compute in such numbers."""
    device = torch.device("cuda" if torch.cuda.is_available() and not machine.cpu else "cpu")
    dtype = {"no": "float32", "bf16": "bfloat16", "fp16": "float16"}[machine.precision]
    try:
        as_dtype(dtype, device)
    except ValueError as error:
        raise ValueError(f"--precision {machine.precision}: {error} (--precision no)") from error


def _check_folder(training: TrainingOptions, settings: Settings) -> None:
    """Raise ValueError where the run could not be written, or would write over another one or over a saved model."""
    if holds_run(settings.checkpoints) and not training.resume:
        raise ValueError(f"{training.out} holds a run already: go on with --resume, or give another --out")
    if not training.resume and any((training.out / name).exists() for name in (CONFIG, WEIGHTS)):
        raise ValueError(f"{training.out} holds a saved model already: give another --out, or move that one away")
    try:
        training.out.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise ValueError(f"--out {training.out} cannot be made: {error.strerror or error}") from None


def _start(config: FinetuneConfig) -> tuple[Subject, Plan]:
    """The dense model and the reduced one, whose learned parts may be random: they are about to be trained."""
    random = config.training.scratch
    subject = open_untrained(config.model, config.machine.seed) if random else open_model(config.model)
    torch.manual_seed(config.machine.seed)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UntrainedWarning)
        return subject, one_plan(subject, config.method, config.machine.seed)


def recipe_of(config: FinetuneConfig) -> Recipe:
    """The recipe that the options name, with what they change about it."""
    recipe = get_recipe(config.training.recipe, small=config.training.short)
    changes = {f.name: getattr(config.change, f.name) for f in fields(config.change)}
    return override(recipe, **{name: value for name, value in changes.items() if value is not None})


def _budget(config: FinetuneConfig) -> float | None:
    return config.method.macs[0] if config.method.macs else None


def _settings(config: FinetuneConfig) -> Settings:
    machine = config.machine
    return Settings(
        out=config.training.out,
        seed=machine.seed,
        precision=machine.precision,
        micro_batch=machine.micro_batch,
        workers=machine.workers,
        save_minutes=machine.save_minutes,
        log_every=machine.log_every,
        compile=machine.compile,
        checkpointing=machine.grad_checkpointing,
        trackers=machine.trackers,
        cpu=machine.cpu,
    )


def _judging(config: FinetuneConfig, model: torch.nn.Module):
    if config.training.val is None:
        return None
    options: dict[str, Any] = {"crop_pct": config.training.val_crop_pct, "class_map": config.training.class_map}
    photographs = open_dataset(config.training.val, model, **options)
    return open_loader(photographs, batch_size=32, workers=config.machine.workers)
