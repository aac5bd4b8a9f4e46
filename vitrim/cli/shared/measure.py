"""Dense and reduced models measured together: accuracy in one pass over the images, speed in turn on one batch."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader

from ...common.progress import progress
from ...data.loading import open_dataset, open_loader
from ...deploy.opened import FileCost, OpenedFile
from ...evaluate.accuracy import Throughput, environment, evaluate_many, throughput_in_turn
from ...evaluate.timing import as_device, as_dtype, best_device
from ...runtime.model import for_images
from ...runtime.profile import Profile, profile
from .model import Subject
from .options import DataOptions, ModelOptions, RunOptions
from .rows import DENSE, Row

CPU_BATCH, OTHER_BATCH = 16, 128


@dataclass(frozen=True)
class Setting:
    """The run options, checked: nothing in them can fail any more."""

    device: torch.device
    dtype: str
    batch_size: int
    rounds: int
    seed: int


def check_run(run: RunOptions) -> Setting:
    """Check the run options and put threads and seed in force. Raises ValueError for what this machine cannot do."""
    if run.threads is not None:
        torch.set_num_threads(run.threads)
    torch.manual_seed(run.seed)
    device = as_device(run.device or best_device())
    as_dtype(run.precision, device)
    size = run.batch_size or (CPU_BATCH if device.type == "cpu" else OTHER_BATCH)
    return Setting(device, run.precision, size, run.rounds, run.seed)


def open_images(subject: Subject, data: DataOptions, setting: Setting) -> DataLoader:
    """The images as the model wants them. Raises ValueError for what is no data set or does not match the model."""
    return images_for(subject.for_images, data, setting)


def images_for(
    wanting: nn.Module | dict[str, Any], data: Any, setting: Setting, labels: bool | None = None
) -> DataLoader:
    """The images as a model wants them, or a configuration of timm's. Raises ValueError as `open_images` does.

    data:   `DataOptions`, or options of the same names
    labels: False: none are wanted; None: as the folder has them
    """
    limits: dict[str, Any] = {"limit_per_class": data.limit_per_class, "limit": data.limit, "seed": setting.seed}
    places: dict[str, Any] = {
        "labels": labels,
        "label_file": data.label_file,
        "split": data.split,
        "root": data.root,
        "class_map": data.class_map,
    }
    with progress("looking for images"):
        dataset = open_dataset(data.data, wanting, crop_pct=data.crop_pct, **places, **limits)
    return open_loader(dataset, setting.batch_size, data.workers, setting.device)


def measure(
    subject: Subject,
    plans: Sequence[Any],
    loader: DataLoader,
    setting: Setting,
    bank: DataLoader | None = None,
    on: Callable[[nn.Module], nn.Module] = for_images,
) -> list[Row]:
    """One row for the dense model, then one for each plan (`Plan`, `FilePlan`).

    bank: where neighbours are sought, as `open_bank` gives it
    on:   what is judged of a model, such as its answers on class names

    Raises ValueError where no image can be read, or an output does not fit the labels.
    """
    models = {DENSE: on(subject.dense), **{plan.label: on(plan.model) for plan in plans}}
    batches = _FirstBatch(loader)
    where: dict[str, Any] = {"device": setting.device, "dtype": setting.dtype}
    results = evaluate_many(models, batches, bank=bank, progress=True, **where)
    speeds = _speeds(models, batches, setting, where)
    height, width = batches.images.shape[-2:]
    costs = {DENSE: subject.dense, **{plan.label: plan.model for plan in plans}}
    known = {plan.label: plan for plan in plans}
    shown = {DENSE: subject.label}
    return [
        Row(shown.get(label, label), known.get(label), cost_of(model, (height, width)), results[label], speeds[label])
        for label, model in costs.items()
    ]


def measure_alone(plan: Any, features: bool, loader: DataLoader, setting: Setting) -> Row:
    """The row of an exported file that nothing is compared with. Raises ValueError as `measure` does."""
    models, batches = {plan.label: plan.model}, _FirstBatch(loader)
    where: dict[str, Any] = {"device": setting.device, "dtype": setting.dtype}
    result = evaluate_many(models, batches, features=features, progress=True, **where)[plan.label]
    return Row(plan.label, plan, plan.model.cost, result, _speeds(models, batches, setting, where)[plan.label])


def _speeds(
    models: dict[str, nn.Module], batches: _FirstBatch, setting: Setting, where: dict[str, Any]
) -> dict[str, Throughput]:
    """How fast the models are; nothing is timed in no rounds."""
    if setting.rounds == 0:
        return dict.fromkeys(models, Throughput(math.nan, math.nan))
    return throughput_in_turn(models, batches.filled(setting.batch_size), setting.rounds, progress=True, **where)


def cost_of(model: nn.Module, size: tuple[int, int]) -> Profile | FileCost:
    """Counted, or as an exported file says it."""
    return model.cost if isinstance(model, OpenedFile) else profile(model, size)


def images_in(dataset: Any) -> int | None:
    """How many images there are to be judged; None where a stream does not say."""
    return len(dataset) if hasattr(dataset, "__len__") else dataset.size


class _FirstBatch:
    """Passes a loader's batches on and keeps the images of the first that has any, to time the models on."""

    def __init__(self, loader: DataLoader):
        self.loader, self.images = loader, torch.empty(0)

    @property
    def dataset(self) -> Any:
        return self.loader.dataset

    def __iter__(self) -> Iterator[Any]:
        for batch in self.loader:
            if not len(self.images):
                self.images = batch[0]
            yield batch

    def filled(self, size: int) -> Tensor:
        """A batch of that size; fewer images are repeated, as the work does not depend on what they show."""
        return self.images.repeat(-(-size // len(self.images)), 1, 1, 1)[:size]


def common_figures(name: str, rows: Sequence[Row], setting: Setting) -> dict[str, Any]:
    """What all rows share, for JSON."""
    result = rows[0].result
    return {
        "model": name,
        "images": result.images,
        "skipped": [entry._asdict() for entry in result.skipped],
        "dense_gmacs": rows[0].cost.gmacs,
        "params": rows[0].cost.params,
        "dtype": setting.dtype,
        "batch_size": setting.batch_size,
        "rounds": setting.rounds,
        **environment(setting.device, setting.seed),
    }


def data_figures(model: ModelOptions, data: Any, loader: DataLoader) -> dict[str, Any]:
    """Where weights and images came from, for JSON."""
    dataset: Any = loader.dataset
    config, classes = dataset.config, dataset.classes
    return {
        "checkpoint": model.checkpoint,
        "data": data.data,
        "found": images_in(dataset),
        "chosen": dataset.choice or "all",
        "left_out": dataset.left_out,
        "labels": classes.rule,
        "classes": {} if classes.by_wnid else classes.mapping,
        "image_size": list(config["input_size"][1:]),
        "crop_pct": config["crop_pct"],
        "interpolation": config["interpolation"],
    }
