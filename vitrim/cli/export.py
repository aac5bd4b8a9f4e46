"""`vitrim export`: a reduced model as one file that runs without vitrim, checked before it is there."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from .._version import __version__
from ..backbones import find_family
from ..common.files import write_json
from ..common.progress import progress
from ..common.text import counted
from ..deploy.export import Exported, export
from ..deploy.formats import FORMATS
from ..evaluate.timing import as_device
from ..runtime.profile import profile
from .shared.config_file import asked
from .shared.measure import Setting, open_images
from .shared.model import Subject, open_model
from .shared.options import DataOptions
from .shared.plans import Plan, one_plan
from .shared.table import Printer


def run(config: Any) -> None:
    """Export what the arguments name."""
    file = config.file
    if file.data is None and "limit" in config.given:
        raise ValueError(f"--limit {file.limit} is for images of --data: give that too")
    FORMATS[file.out.suffix.lower()].require()
    with progress("preparing the model"):
        subject = open_model(config.model)
        if "prediction-only" not in config.given:
            config.method.prediction_only = _reads_class_tokens_alone(subject)
        plan = one_plan(subject, config.method, file.seed)
        images = _images(subject, config)
    with progress(f"writing and checking {file.out}"):
        made = export(
            plan.model,
            file.out,
            images=images,
            batch_size=file.batch_size,
            preprocessing=file.with_preprocessing,
            overwrite=file.overwrite,
        )
    _print(Printer(config.output.json, config.output.wide), subject, plan, made, images is not None)
    write_json(config.output.json, {**asked(config), **_figures(subject, plan, made)})


def _reads_class_tokens_alone(subject: Subject) -> bool:
    """Whether the last block may compute these alone: a file gives nothing but the prediction."""
    try:
        find_family(subject.dense)(subject.dense).check_prediction_only()
    except ValueError:
        return False
    return True


def _images(subject: Subject, config: Any) -> Tensor | None:
    if config.file.data is None:
        return None
    data = DataOptions(data=config.file.data, limit=config.file.limit)
    setting = Setting(as_device("cpu"), "float32", config.file.limit, 1, config.file.seed)
    return torch.cat([batch[0] for batch in open_images(subject, data, setting)])


def _print(printer: Printer, subject: Subject, plan: Plan, made: Exported, photographs: bool) -> None:
    cost = profile(plan.model)
    printer.line(f"{subject.name}, {plan.label}: {cost.gmacs:.3f} GMACs ({100 * cost.share:.1f} % of dense)")
    if plan.model.prediction_only:
        printer.line("the last block computes class tokens alone: the head reads no others")
    shape = ", ".join(map(str, made.input))
    printer.line(f"wrote {made.path} ({made.format}, {made.bytes / 1e6:.1f} MB), which takes images [{shape}]")
    on = counted(made.images, "image") if photographs else f"{made.images} random images (--data: your own)"
    strays = f", {made.strays} beyond that" if made.strays else ""
    printer.line(
        f"checked on {on}: largest difference of a logit {made.difference:.1e}{strays}, the same class on "
        f"{100 * made.agreement:.0f} %"
    )


def _figures(subject: Subject, plan: Plan, made: Exported) -> dict[str, Any]:
    cost = profile(plan.model)
    return {
        "model": subject.name,
        "method": plan.name,
        "options": plan.options,
        "gmacs": cost.gmacs,
        "dense_gmacs": cost.dense_gmacs,
        "prediction_only": plan.model.prediction_only,
        **vars(made),
        "vitrim": __version__,
    }
