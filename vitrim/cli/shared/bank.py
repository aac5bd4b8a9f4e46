"""Where nearest neighbours are sought: a bank of labelled images, or the judged images themselves."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from torch.utils.data import DataLoader

from ...common.progress import progress
from ...common.text import counted, few
from ...data.loading import open_dataset, open_loader
from ...evaluate import EvaluationResult, without_classifier
from .measure import Setting
from .model import Subject
from .options import DataOptions

THEMSELVES = "the judged images, each without itself"


def open_bank(subject: Subject, data: DataOptions, setting: Setting, judged: DataLoader) -> DataLoader | None:
    """The images of `--bank`; `judged` is told which of its classes are those of the bank. None where none is given.

    Raises ValueError for a model with a classifier, for images without labels, and for classes that the bank lacks.
    """
    if data.bank is None:
        return None
    if not without_classifier(subject.dense):
        raise ValueError(f"--bank {data.bank}: the model has a classifier and is judged by it: leave the bank out")
    dataset: Any = judged.dataset
    if dataset.classes.unlabelled:
        raise ValueError(f"--bank {data.bank}: {data.data} has no labels, which nearest neighbours need")
    with progress("looking for the bank"):
        bank = open_dataset(data.bank, subject.for_images, crop_pct=data.crop_pct, class_map=data.class_map)
    mapping = bank.classes.mapping
    if bool(mapping) != bool(dataset.classes.names):
        raise ValueError(f"--bank {data.bank}: it and {data.data} must both name their classes, or both number them")
    missing = [name for name in dataset.classes.names if name not in mapping]
    if missing:
        raise ValueError(
            f"--bank {data.bank} has no images of {counted(len(missing), 'class', 'classes')} of {data.data}: "
            f"{few(missing)}; it has {few(list(mapping))}"
        )
    indices = tuple(mapping[name] for name in dataset.classes.names)
    dataset.classes = replace(dataset.classes, indices=indices)
    return open_loader(bank, setting.batch_size, data.workers, setting.device)


def bank_in_words(result: EvaluationResult, data: DataOptions) -> str:
    """How many neighbours vote, and among which images they are; empty where none do."""
    if result.neighbours is None or result.bank is None:
        return ""
    where = f"{result.bank:,} images of {data.bank}" if data.bank else f"{result.bank:,} judged images, without itself"
    return f"nearest neighbours: the {result.neighbours} nearest of each image vote, among the {where}"


def bank_figures(result: EvaluationResult, data: DataOptions) -> dict[str, Any]:
    """The same for JSON."""
    if result.neighbours is None:
        return {}
    return {"neighbours": result.neighbours, "bank": data.bank or THEMSELVES, "bank_images": result.bank}
