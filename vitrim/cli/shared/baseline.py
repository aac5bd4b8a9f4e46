"""A second dense model to compare with: as it was before fine-tuning."""

from __future__ import annotations

import copy
from collections.abc import Callable
from pathlib import Path
from typing import Any

from torch import nn
from torch.utils.data import DataLoader

from ...backbones import LIBRARIES, library_of
from ...common.absent import near_path
from ...common.text import shortened
from ...evaluate.accuracy import EvaluationResult, evaluate_many
from ...runtime.model import for_images
from .measure import Setting
from .model import Subject, open_model
from .options import ModelOptions
from .plans import Plan
from .rows import DENSE, SHARED, accuracy_of, change_of, interval_of
from .table import Printer, interval, percent, signed

NAME = "dense (before fine-tuning)"
_LIBRARIES = " and ".join(library.name for library in LIBRARIES if library.has_list)


def open_baseline(given: str, subject: Subject) -> nn.Module:
    """The dense model that `--baseline` names: a checkpoint of the subject's architecture, a folder written by save()
    (its backbone), or the name of a model, with its pretrained weights.

    Raises ValueError for what is none of these, does not fit, or tells other classes apart.
    """
    path = Path(given).expanduser()
    if path.is_dir():
        model = open_model(ModelOptions(checkpoint=path)).dense
    elif path.is_file():
        model = copy.deepcopy(subject.dense)
        library_of(model).load_checkpoint(model, path)
    elif any(library.has_model(given) or library.looks_up(given) for library in LIBRARIES):
        size = library_of(subject.dense).image_size(subject.dense)
        model = open_model(ModelOptions(model=given, image_size=tuple(size or ()))).dense
    else:
        near = near_path(given)
        raise ValueError(
            f"--baseline {shortened(given)}: there is no such file or folder, and {_LIBRARIES} has no model of that "
            f"name{f': did you mean {shortened(near)}?' if near else ''}"
        )
    classes, own_classes = (library_of(dense).classes(dense) for dense in (model, subject.dense))
    if classes != own_classes:
        raise ValueError(
            f"--baseline {given} tells {classes} classes apart and the model {own_classes}: "
            "give the dense model that it was fine-tuned from"
        )
    return model.eval()


def judge_beside(
    model: nn.Module,
    plan: Plan,
    loader: DataLoader,
    setting: Setting,
    bank: DataLoader | None,
    on: Callable[[nn.Module], nn.Module] = for_images,
) -> tuple[EvaluationResult, EvaluationResult]:
    """The baseline's result, and the reduced model's with its agreement with the baseline. on: as for `measure`"""
    where: dict[str, Any] = {"device": setting.device, "dtype": setting.dtype}
    models = {DENSE: on(model), plan.label: on(plan.model)}
    found = evaluate_many(models, loader, bank=bank, progress=True, **where)
    return found[DENSE], found[plan.label]


def tell_beside(printer: Printer, given: str, results: tuple[EvaluationResult, EvaluationResult]) -> None:
    """One line of what the baseline reaches, and what the reduced model is beside it."""
    before, now = results
    if accuracy_of(before) is None:
        agreement = "" if now.agreement is None else f"agreement {percent(now.agreement)} %, "
        printer.line(f"{NAME}, {given}: beside it the reduced model's {agreement}cosine {percent(now.cosine, 4)}")
        return
    what = "top-1" if before.top1 is not None else "nearest-neighbour accuracy"
    alike = f"agreement {percent(now.agreement)} %" if before.top1 is not None else f"cosine {percent(now.cosine, 4)}"
    printer.line(
        f"{NAME}, {given}: {what} {percent(accuracy_of(before))} % ({interval(interval_of(before))}); beside it the "
        f"reduced model's change is {signed(change_of(now, before))}, its {alike}"
    )


def beside_figures(given: str, results: tuple[EvaluationResult, EvaluationResult]) -> dict[str, Any]:
    """The same for JSON."""
    before, now = results
    before_figures = {key: value for key, value in before.as_dict().items() if key not in (*SHARED, "agreement")}
    likeness = {"agreement": now.agreement, "agreement_interval": now.agreement_interval, "cosine": now.cosine}
    beside = {key: value for key, value in likeness.items() if value is not None}
    return {"baseline": {"from": given, **before_figures, "change": change_of(now, before), **beside}}
