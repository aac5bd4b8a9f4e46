"""From what the demo has measured to its page: rows, what to conclude, and example pictures."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import islice
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ...data import Unreadable, data_config
from ...data.classes import names_by_index
from ...demo.conclusion import Outcome, conclude, too_few
from ...demo.page import KNN, TOP1, Example, Shown, TableRow
from ...view.fates import follow
from ...view.looking import as_pixels, title_of
from .demo_plans import FLOOR, TRAINED_MARK, is_trained
from .model import Subject
from .plans import Plan
from .rows import Row, accuracy_of, change_of, doubtful_speed, interval_of
from .table import tokens_left

SHOWN_COST, SHOWN = 0.5, 8  # the example pictures: of which rows, how many
LARGE_LOSS = 10.0  # points


def words_of(dense: Row) -> dict[str, str]:
    """What accuracy is here: top-1, or that of nearest neighbours for a model without a classifier."""
    return TOP1 if dense.result.top1 is not None else KNN


def page_row(row: Row, dense: Row) -> TableRow:
    """A line of the page's table."""
    interval, result = interval_of(row.result), row.result
    extra: dict[str, Any] = {}
    if row is not dense:
        likeness = result.agreement if result.top1 is not None else result.cosine
        extra = {"change": change_of(result, dense.result), "likeness": likeness}
    return TableRow(
        name=_name(row),
        gmacs=row.cost.gmacs,
        share=100 * row.cost.share,
        tokens=tokens_left(row.cost.patches, row.cost.tokens),
        accuracy=accuracy_of(result),
        images_per_s=row.speed.images_per_s if row.timed else None,
        accuracy_margin=None if interval is None else (interval[1] - interval[0]) / 2,
        speedup=row.speed.speed_up if row.timed else None,
        doubtful_speed=doubtful_speed(row),
        note=_note(row.plan, extra.get("change")),
        **extra,
    )


def _note(plan: Plan | None, change: float | None) -> str:
    """Why untrained IdleViT loses so much, where it does; what a saved folder holds, which has no budget, may be
    trained."""
    if plan is None or plan.budget is None or plan.name != "idlevit" or change is None or change > -LARGE_LOSS:
        return ""
    return (
        "IdleViT was published as a method to fine-tune with. Without training, as here, it usually loses most: the "
        "blocks have not learned to meet tokens that have skipped some. Fine-tuning wins that back "
        "(docs/results/finetuning.md)."
    )


def names_of(rows: Sequence[Row]) -> dict[str, str]:
    """Methods as the page names them, by their own names."""
    return {row.plan.name: _method(row.plan) for row in rows if row.plan is not None}


def _method(plan: Plan) -> str:
    return f"{title_of(plan.model.methods)}{TRAINED_MARK if is_trained(plan.model) else ''}"


def _name(row: Row) -> str:
    """`EViT keep=0.51`: the label without the budget, which the column of shares has."""
    if row.plan is None:
        return row.label
    setting = row.short
    for method in row.plan.model.methods:
        setting = setting.replace(method.name, title_of([method]), 1)
    return setting


def conclusion_of(rows: Sequence[Row]) -> list[str]:
    """What to conclude, in sentences, or why nothing; `rows[0]` is the dense model."""
    judged = [_outcome(row) for row in rows if interval_of(row.result) is not None]
    if len(judged) < len(rows):
        return []
    reason = too_few(judged, rows[0].result.images)
    return [reason] if reason else conclude(judged[1:], judged[0])


def _outcome(row: Row) -> Outcome:
    interval: Any = interval_of(row.result)
    plan = row.plan
    name, budget = (row.label, None) if plan is None else (_method(plan), plan.budget)
    floor = plan is not None and plan.name in FLOOR
    trained = plan is not None and is_trained(plan.model)
    return Outcome(name, row.cost.share, accuracy_of(row.result) or 0.0, interval, budget, floor, trained)


@torch.inference_mode()
def examples(subject: Subject, plans: Sequence[Plan], dataset: Any, device: torch.device) -> list[Example]:
    """Some pictures spread over the data set, and what every method makes of them at the cost shown."""
    samples = _some(dataset)
    if not samples:
        return []
    images = torch.stack([image for image, _ in samples]).to(device)
    dense_model: Any = subject.for_images
    names = _names(dataset, dense_model.num_classes)
    dense = _answers(dense_model(images), subject, names)
    shown = [_shown(plan, images, subject, names) for plan in plans if plan.budget in (SHOWN_COST, None)]
    pixels = as_pixels(images, data_config(dense_model))
    labels = [names.get(int(label), f"class {int(label)}") for _, label in samples]
    methods = [list(each) for each in zip(*shown, strict=True)] if shown else [[] for _ in samples]
    return [Example(*parts) for parts in zip(pixels, labels, dense, methods, strict=True)]


def _some(dataset: Any) -> list[tuple[Tensor, int]]:
    """Up to `SHOWN` pictures that can be read: evenly from a data set by index, the first of a stream."""
    if not hasattr(dataset, "__len__"):
        return list(islice((sample for sample in dataset if not isinstance(sample, Unreadable)), SHOWN))
    places = np.linspace(0, len(dataset) - 1, min(2 * SHOWN, len(dataset))).round().astype(int)
    order = [*places[::2], *places[1::2]]  # the second half stands in for what cannot be read
    return list(islice((s for i in order if not isinstance(s := dataset[int(i)], Unreadable)), SHOWN))


def _shown(plan: Plan, images: Tensor, subject: Subject, names: dict[int, str]) -> list[Shown]:
    logits, trace = plan.model(images, trace=True)
    fates, answers = follow(plan.model, trace), _answers(logits, subject, names)
    title = title_of(plan.model.methods)
    return [Shown(title, f.groups[-1], f.caption(-1), a) for f, a in zip(fates, answers, strict=True)]


def _answers(logits: Tensor, subject: Subject, names: dict[int, str]) -> list[str]:
    """The class that is said of every picture; nothing where the model has no classifier."""
    if not getattr(subject.for_images, "num_classes", 0):
        return [""] * len(logits)
    return [names.get(index, f"class {index}") for index in logits.argmax(dim=1).tolist()]


def _names(dataset: Any, num_classes: int) -> dict[int, str]:
    """The model's class index -> name."""
    classes = dataset.classes
    return dict(enumerate(classes)) if isinstance(classes, list) else names_by_index(classes, num_classes)
