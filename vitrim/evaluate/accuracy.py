"""Accuracy, agreement with the dense model, and throughput of one or more models."""

from collections.abc import Callable, Generator, Iterable, Mapping
from contextlib import contextmanager, nullcontext
from itertools import accumulate
from typing import Any

import torch
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
from torch import Tensor, nn

from ..common.errors import OptionError
from ..common.unwrapping import innermost
from ..data.photographs import Unreadable
from .judges import ClassifierJudge, EvaluationResult, FeatureJudge, knn_hits, wilson_interval, without_classifier
from .timing import Throughput, as_device, as_dtype, environment, evaluation_mode, inference, throughput_in_turn

__all__ = [
    "EvaluationResult",
    "Throughput",
    "environment",
    "evaluate",
    "evaluate_many",
    "knn_hits",
    "throughput_in_turn",
    "wilson_interval",
    "without_classifier",
]

BAR_ROOM = 50  # characters that bar, counts and time take at the least
# Called after each batch with the images done, the images in all (None if unknown) and each model's running figure:
# top-1 in percent, or the mean cosine where there is no classifier.
ProgressCallback = Callable[[int, int | None, Mapping[str, float]], None]


def evaluate(
    model: nn.Module,
    loader: Iterable,
    *,
    dense: nn.Module | None = None,
    device: str | torch.device = "cpu",
    dtype: str | torch.dtype = torch.float32,
    features: bool | None = None,
    neighbours: int = 20,
    progress: bool | ProgressCallback = False,
) -> EvaluationResult:
    """Judge one model over a loader, and how far it agrees with `dense`.

    Arguments are as for `evaluate_many`. Raises ValueError as it does.

    Example:
        >>> batches = [(images, torch.tensor([0, 1]))]  # any iterable of images and class indices; a DataLoader is one
        >>> result = vitrim.evaluate.evaluate(model, batches)
        >>> result.images, result.top1 in (0.0, 50.0, 100.0)
        (2, True)
    """
    models = {"model": model} if dense is None else {"dense": dense, "model": model}
    options = {"device": device, "dtype": dtype, "features": features, "neighbours": neighbours, "progress": progress}
    return evaluate_many(models, loader, **options)["model"]


def evaluate_many(
    models: Mapping[str, nn.Module],
    loader: Iterable,
    *,
    device: str | torch.device = "cpu",
    dtype: str | torch.dtype = torch.float32,
    features: bool | None = None,
    neighbours: int = 20,
    progress: bool | ProgressCallback = False,
) -> dict[str, EvaluationResult]:
    """Judge several models in one pass over the data, so that each photograph is decoded once.

    Args:
        models: by name; the one called "dense", if any, is what agreement and cosine compare with. They are moved to
            `device` and come back in the mode (training or not) that they were in.
        loader: batches of `(images [b, c, h, w], class indices [b])`, or what `open_loader` gives, which also names the
            images that it skipped.
        dtype: "float32", or "bfloat16" and "float16" by autocast; weights stay as they are.
        features: judge outputs as features, by cosine and nearest neighbours; None asks `without_classifier`.
        neighbours: k of the nearest neighbours.
        progress: True for a bar with running figures on standard error, or a function to call after each batch.

    Raises ValueError for models that differ in `num_classes`, outputs of a wrong shape, labels outside the model's
    classes, an unavailable device or dtype, and data without one readable image.
    """
    device = as_device(device)
    dtype = as_dtype(dtype, device)
    judges = _judges(models, features, neighbours, device)
    skipped: list[Unreadable] = []
    total, done = _total(loader), 0
    for model in models.values():  # not in inference mode: what is moved there could never be trained again
        model.to(device)
    with evaluation_mode(models), inference(device, dtype), _reporting(progress, total) as report:
        for images, labels, *left_out in loader:
            skipped.extend(entry for group in left_out for entry in group)
            done += _judge_batch(models, judges, images, labels, device)
            report(done + len(skipped), total, _running(judges))
    if not done:
        raise ValueError(_nothing_read(skipped))
    return {name: judge.result(tuple(skipped)) for name, judge in judges.items()}


def _judges(
    models: Mapping[str, nn.Module], features: bool | None, neighbours: int, device: torch.device
) -> dict[str, ClassifierJudge | FeatureJudge]:
    counts: dict[str, Any] = {name: getattr(innermost(model), "num_classes", None) for name, model in models.items()}
    if len(set(counts.values())) != 1 or None in counts.values():
        raise ValueError(f"give one or more models with the same number of classes, not {counts or 'none'}")
    if neighbours < 1:
        raise OptionError({"neighbours": neighbours}, ": give a whole number from 1")
    if without_classifier(next(iter(models.values()))) if features is None else features:
        return {name: FeatureJudge(name, neighbours, device) for name in models}
    if 0 in counts.values():
        raise ValueError("the models have no classifier (num_classes is 0): judge their features")
    return {name: ClassifierJudge(name, counts[name], device) for name in models}


def _judge_batch(
    models: Mapping[str, nn.Module],
    judges: Mapping[str, ClassifierJudge | FeatureJudge],
    images: Tensor,
    labels: Tensor,
    device: torch.device,
) -> int:
    """Judge one batch, which may be empty; the number of its images."""
    if not len(labels):
        return 0
    images, labels = images.to(device, non_blocking=True), labels.to(device)
    outputs = {name: _forward(name, model, images) for name, model in models.items()}
    dense = outputs.get("dense")
    for name, output in outputs.items():
        judges[name].update(output, None if name == "dense" else dense, labels)
    return len(labels)


def _forward(name: str, model: nn.Module, images: Tensor) -> Tensor:
    try:
        output = model(images)
    except torch.OutOfMemoryError as error:
        raise ValueError(f"{name} runs out of memory on {len(images)} images at a time: give fewer") from error
    except AssertionError as error:  # timm asserts image sizes
        raise ValueError(f"{name} does not take images of shape {tuple(images.shape)}: {error}") from error
    if not isinstance(output, Tensor):
        raise ValueError(f"{name} gives a {type(output).__name__} and no tensor of logits")
    return output.float()


def _total(loader: Iterable) -> int | None:
    dataset = getattr(loader, "dataset", None)
    return getattr(dataset, "size", None) or (len(dataset) if hasattr(dataset, "__len__") else None)


def _running(judges: Mapping[str, ClassifierJudge | FeatureJudge]) -> dict[str, float]:
    return {name: judge.running for name, judge in judges.items() if judge.running is not None}


def _nothing_read(skipped: list[Unreadable]) -> str:
    if not skipped:
        return "the data holds no image: nothing to evaluate"
    return f"none of the {len(skipped)} images can be read, the first, {skipped[0].name}, because: {skipped[0].reason}"


def _reporting(progress: bool | ProgressCallback, total: int | None):
    if progress is True:
        return progress_bar(total)
    return nullcontext(progress or (lambda done, total, running: None))


@contextmanager
def progress_bar(total: int | None) -> Generator[ProgressCallback]:
    """A bar on standard error with the running figure of each model, where standard error is a terminal."""
    console = Console(stderr=True)
    columns = (TextColumn("evaluating"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    shown = TextColumn("{task.fields[running]}")
    with Progress(*columns, shown, console=console, disable=not console.is_terminal) as bar:
        task = bar.add_task("evaluating", total=total, running="")

        def report(done: int, total: int | None, running: Mapping[str, float]) -> None:
            bar.update(task, completed=done, running=_fitting(running, console.width - BAR_ROOM))

        yield report


def _fitting(figures: Mapping[str, float], room: int) -> str:
    """The figures of the first models, as many as there is room for beside the bar."""
    shown = list(accumulate((f"{name} {value:.3g}" for name, value in figures.items()), "{}  {}".format))
    return max((text for text in shown if len(text) <= room), key=len, default="")
