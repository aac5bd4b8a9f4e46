"""`vitrim diagnose`: what the papers measure, of reduced models and the dense one, over a data set."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from torch.utils.data import DataLoader

from ..common.errors import OptionError
from ..common.extras import require
from ..common.files import write_json
from ..common.progress import progress
from ..common.text import visible
from ..data.classes import OtherClasses
from ..view.diagnosis.diagnosing import DENSE, Diagnosis, diagnose
from ..view.diagnosis.page import differing_in_words, write_page
from ..view.diagnosis.tables import more_classes, reasons_in_words, sections
from .shared.config_file import asked
from .shared.diagnosis_figures import figures_of
from .shared.early_extras import each_extra
from .shared.measure import Setting, check_run, data_figures, images_for
from .shared.model import Subject, open_model
from .shared.plans import Plan, many_plans
from .shared.report import about, images_in_words, unreadable
from .shared.table import Printer


def run(config: Any) -> None:
    """Diagnose what the arguments name."""
    each_extra(require, config)
    setting = check_run(config.run)
    with progress("preparing the models"):
        subject = open_model(config.model)
        plans = _plans(subject, config)
    loader = _images(subject, config.data, setting)
    printer = Printer(config.output.json, config.output.wide)
    about(printer, subject.name, loader, setting)
    models = [plan.model.to(setting.device) for plan in plans]
    found = diagnose(models, loader, differing=config.out.differing, progress=True)
    _tell(printer, found)
    if config.out.out is not None:
        dataset: Any = loader.dataset
        notes = [f"Model: {subject.name}; {images_in_words(dataset)} of {visible(config.data.data)}."]
        write_page(config.out.out, found, f"Diagnosis of {subject.name}", notes)
        printer.line(f"the page is {config.out.out.expanduser().resolve()}")
    where = data_figures(config.model, config.data, loader)
    write_json(config.output.json, {**asked(config), **where, **figures_of(subject.name, found, plans, setting)})


def _plans(subject: Subject, config: Any) -> Sequence[Plan]:
    """The reduced models. The dense one is there anyway, whatever its last block leaves out."""
    return [plan for plan in many_plans(subject, config.method, config.run.seed, rates=()) if len(plan.model.methods)]


def _images(subject: Subject, data: Any, setting: Setting) -> DataLoader:
    try:
        return images_for(subject.for_images, data, setting, labels=False if data.unlabelled else None)
    except OtherClasses as error:
        raise OptionError(*error.parts, "; or take images without labels by ", {"unlabelled": ...}) from error


def _tell(printer: Printer, found: Diagnosis) -> None:
    """The tables, each with its source, and why models are missing in it."""
    for section in sections(found):
        printer.line()
        printer.line(f"{section.title} ({section.source})" if section.source else section.title)
        if section.table is not None:
            printer.show(section.table)
        for reason in reasons_in_words(section.left_out):
            printer.line(reason)
        if section.name in ("classes", "top1") and more_classes(found):
            printer.line(more_classes(found))
    printer.line()
    unreadable(printer, found.models[DENSE].agreement)
    printer.line(differing_in_words(found))
