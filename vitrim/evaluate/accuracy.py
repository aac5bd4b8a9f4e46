"""Accuracy, agreement with the dense model, and throughput of one or more models."""

import warnings
from collections.abc import Callable, Generator, Iterable, Mapping
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from ..common.errors import OptionError
from ..common.progress import progress as show_progress
from ..common.unwrapping import innermost
from ..data.classes import check_same_classes
from ..data.photographs import Unreadable
from ..runtime.model import for_images
from .intervals import wilson_interval
from .judges import ClassifierJudge, EvaluationResult, FeatureJudge, without_classifier
from .neighbours import knn_hits
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

Judges = Mapping[str, ClassifierJudge | FeatureJudge]
# Called after each batch with the images done, the images in all (None if unknown) and each model's running figure:
# top-1 in percent, without labels the agreement, and the mean cosine where there is no classifier.
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
    bank: Iterable | None = None,
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
    options: dict[str, Any] = {"features": features, "neighbours": neighbours, "bank": bank, "progress": progress}
    return evaluate_many(models, loader, device=device, dtype=dtype, **options)["model"]


def evaluate_many(
    models: Mapping[str, nn.Module],
    loader: Iterable,
    *,
    device: str | torch.device = "cpu",
    dtype: str | torch.dtype = torch.float32,
    features: bool | None = None,
    neighbours: int = 20,
    bank: Iterable | None = None,
    progress: bool | ProgressCallback = False,
) -> dict[str, EvaluationResult]:
    """Judge several models in one pass over the data, so that each photograph is decoded once.

    Args:
        models: by name, of timm or transformers, reduced or not; the one called "dense", if any, is what agreement and
            cosine compare with. They are moved to `device` and come back in the mode (training or not) they were in.
        loader: batches of `(images [b, c, h, w], class indices [b])`, or what `open_loader` gives, which also names the
            images that it skipped. Without labels (None in place of the indices) there are agreement and cosine alone.
        dtype: "float32", or "bfloat16" and "float16" by autocast; weights stay as they are.
        features: judge outputs as features, by cosine and nearest neighbours; None asks `without_classifier`.
        neighbours: k of the nearest neighbours.
        bank: batches with labels among whose images the neighbours are sought; None: among those of `loader`, each
            without itself.
        progress: True for a bar with running figures on standard error, or a function to call after each batch.

    Raises ValueError for models that differ in `num_classes`, outputs of a wrong shape, labels outside the model's
    classes, no labels and no dense model, an unavailable device or dtype, and data without one readable image.
    """
    device = as_device(device)
    dtype = as_dtype(dtype, device)
    models = {name: for_images(model) for name, model in models.items()}
    judges = _judges(models, features, neighbours, device)
    for model in models.values():  # not in inference mode: what is moved there could never be trained again
        model.to(device)
    with evaluation_mode(models), inference(device, dtype):
        if bank is not None:
            _read_bank(models, judges, bank, loader, device, progress)
        skipped = _judge_all(models, judges, loader, device, progress)
    return {name: judge.result(tuple(skipped)) for name, judge in judges.items()}


def _judge_all(
    models: Mapping[str, nn.Module],
    judges: Judges,
    loader: Iterable,
    device: torch.device,
    progress: bool | ProgressCallback,
) -> list[Unreadable]:
    """Judge every batch; the images that cannot be read."""
    skipped: list[Unreadable] = []
    kinds: set[bool] = set()
    total, done = _total(loader), 0
    with _reporting(progress, total) as report:
        for images, labels, *left_out in loader:
            skipped.extend(entry for group in left_out for entry in group)
            if len(images):
                kinds.add(labels is not None)
                _check_kinds(kinds, models)
                _judge_batch(models, judges, images, labels, device)
            done += len(images)
            report(done + len(skipped), total, _running(judges))
    if not done:
        raise ValueError(_nothing_read(skipped))
    return skipped


def _check_kinds(kinds: set[bool], models: Mapping[str, nn.Module]) -> None:
    if len(kinds) > 1:
        raise ValueError("some batches have labels and some have none: give labels for all images, or for none")
    if False in kinds and not {"dense"} < models.keys():
        raise ValueError("without labels a model is judged beside the dense one: give `dense`, or labels")


def _read_bank(
    models: Mapping[str, nn.Module],
    judges: Judges,
    bank: Iterable,
    loader: Iterable,
    device: torch.device,
    progress: bool | ProgressCallback,
) -> None:
    """Let every judge keep its model's features of the bank."""
    if any(isinstance(judge, ClassifierJudge) for judge in judges.values()):
        raise ValueError("a bank is for nearest neighbours, and these models have a classifier: leave it out")
    known, judged = (getattr(getattr(it, "dataset", None), "classes", None) for it in (bank, loader))
    if known is not None and judged is not None:
        check_same_classes(known, judged, "what is judged", "the bank")
    skipped = _judge_all(models, judges, bank, device, progress)
    if skipped:
        warnings.warn(f"{len(skipped)} images of the bank cannot be read, the first: {skipped[0].name}", stacklevel=3)
    for judge in judges.values():
        if isinstance(judge, FeatureJudge):
            judge.keep_as_bank()


def _judges(models: Mapping[str, nn.Module], features: bool | None, neighbours: int, device: torch.device) -> Judges:
    counts: dict[str, Any] = {name: getattr(innermost(model), "num_classes", None) for name, model in models.items()}
    if len(set(counts.values())) != 1 or None in counts.values():
        raise ValueError(f"give one or more models with the same number of classes, not {counts or 'none'}")
    if neighbours < 1:
        raise OptionError({"neighbours": neighbours}, ": give a whole number from 1")
    if without_classifier(next(iter(models.values()))) if features is None else features:
        return {name: FeatureJudge(name, neighbours) for name in models}
    if 0 in counts.values():
        raise ValueError("the models have no classifier (num_classes is 0): judge their features")
    return {name: ClassifierJudge(name, counts[name], device) for name in models}


def _judge_batch(
    models: Mapping[str, nn.Module],
    judges: Judges,
    images: Tensor,
    labels: Tensor | None,
    device: torch.device,
) -> None:
    images, labels = images.to(device, non_blocking=True), None if labels is None else labels.to(device)
    outputs = {name: _forward(name, model, images) for name, model in models.items()}
    dense = outputs.get("dense")
    for name, output in outputs.items():
        judges[name].update(output, None if name == "dense" else dense, labels, len(images))


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


def _running(judges: Judges) -> dict[str, float]:
    return {name: judge.running for name, judge in judges.items() if judge.running is not None}


def _nothing_read(skipped: list[Unreadable]) -> str:
    if not skipped:
        return "the data holds no image: nothing to evaluate"
    return f"none of the {len(skipped)} images can be read, the first, {skipped[0].name}, because: {skipped[0].reason}"


@contextmanager
def _reporting(progress: bool | ProgressCallback, total: int | None) -> Generator[ProgressCallback]:
    """What to call after each batch: the caller's own function, or one that shows the running figures."""
    if progress is not True:
        yield progress or (lambda done, total, running: None)
        return
    with show_progress("evaluating", total) as report:
        yield lambda done, total, running: report(done, in_words(running))


def in_words(running: Mapping[str, float]) -> list[str]:
    """The running figure of each model, by its name."""
    return [f"{name} {value:.3g}" for name, value in running.items()]
