"""`vitrim export`: a reduced model as one file that runs without vitrim, checked before it is there."""

from __future__ import annotations

from typing import Any

from .._version import __version__
from ..backbones import find_family
from ..common.files import write_json
from ..common.progress import progress
from ..common.text import counted
from ..deploy.export import check_file, export
from ..deploy.formats import format_of
from ..deploy.int8 import Int8
from ..deploy.writing import Exported
from ..runtime.profile import profile
from .shared.config_file import asked
from .shared.export_images import check_images, open_export_images
from .shared.model import Subject, open_model
from .shared.plans import Plan, one_plan
from .shared.table import Printer, interval


def run(config: Any) -> None:
    """Export what the arguments name."""
    file = config.file
    check_file(file.out, file.overwrite)
    kind = format_of(file.out, file.format)
    check_images(kind, file)
    kind.require()
    with progress("preparing the model"):
        subject = open_model(config.model)
        if "prediction-only" not in config.given:
            config.method.prediction_only = _reads_class_tokens_alone(subject)
        plan = one_plan(subject, config.method, file.seed)
        images = open_export_images(subject, file)
    with progress(f"writing and checking {file.out}"):
        made = export(
            plan.model,
            file.out,
            batch_size=file.batch_size,
            preprocessing=file.with_preprocessing,
            format=file.format,
            int8=file.int8,
            overwrite=file.overwrite,
            **vars(images),
        )
    _print(Printer(config.output.json, config.output.wide), subject, plan, made, images.images is not None)
    write_json(config.output.json, {**asked(config), **_figures(subject, plan, made)})


def _reads_class_tokens_alone(subject: Subject) -> bool:
    """Whether the last block may compute these alone: a file gives nothing but the prediction."""
    try:
        find_family(subject.dense)(subject.dense).check_prediction_only()
    except ValueError:
        return False
    return True


def _print(printer: Printer, subject: Subject, plan: Plan, made: Exported, photographs: bool) -> None:
    cost = profile(plan.model)
    printer.line(f"{subject.name}, {plan.label}: {cost.gmacs:.3f} GMACs ({100 * cost.share:.1f} % of dense)")
    if plan.model.prediction_only:
        printer.line(
            "the last block computes class tokens alone, since the head reads no others; the same model in vitrim "
            "predict, evaluate and compare: --prediction-only"
        )
    shape = ", ".join(map(str, made.input))
    printer.line(f"wrote {made.path} ({made.format}, {made.bytes / 1e6:.1f} MB), which takes images [{shape}]")
    printer.line(_in_words(made.int8) if made.int8 is not None else _checked(made, photographs))


def _checked(made: Exported, photographs: bool) -> str:
    on = counted(made.images, "image") if photographs else f"{made.images} random images (--data: your own)"
    strays = f", {made.strays} beyond that" if made.strays else ""
    return (
        f"checked on {on}: largest difference of a logit {made.difference:.1e}{strays}, the same class on "
        f"{100 * made.agreement:.0f} %"
    )


def _in_words(lost: Int8) -> str:
    """What an int8 file has lost."""
    how = f"static, calibrated on {counted(lost.calibrated_on, 'image')}" if lost.calibrated_on else lost.how
    right = ""
    if lost.top1_before is not None:
        before, after = interval(lost.top1_before_interval), interval(lost.top1_after_interval)
        right = f"top-1 {lost.top1_before:.1f} % ({before}) before and {lost.top1_after:.1f} % ({after}) after, "
    return (
        f"in int8 ({how}), judged on {counted(lost.images, 'image')}: {right}agreement with dense "
        f"{lost.dense_before:.1f} % before and {lost.dense_after:.1f} % after; the class that the model gave in "
        f"float32 on {lost.agreement:.1f} %"
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
        "int8": None if made.int8 is None else made.int8.as_dict(),
        "vitrim": __version__,
    }
