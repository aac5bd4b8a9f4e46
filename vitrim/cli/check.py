"""`vitrim check`: a model with its weights against its reduced self; exit code 1 where anything deviates."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from .._version import __version__
from ..backbones import LIBRARIES, library_of
from ..common.files import write_json
from ..common.progress import progress
from ..common.text import counted, few
from ..data.loading import open_dataset, open_loader
from ..evaluate.timing import as_device
from ..methods import METHODS, Method
from ..testing.check_method import random_images
from ..testing.check_model import IMAGES as RANDOM
from ..testing.check_model import MethodOnModel, ModelReport, check_model
from ..testing.findings import BROKEN, HOLDS, NOT_ASKED
from ..testing.model_laws import LAWS
from .shared.config_file import asked
from .shared.export_images import read_all
from .shared.flags import in_flags
from .shared.model import Subject, open_model
from .shared.options import MethodChoice
from .shared.plans import many_plans
from .shared.table import Column, Printer

DEVIATES = 1  # the exit code
IMAGES = 8  # of --data
AT_MACS = "each method runs at no more than {macs:g} % of the dense cost: --macs sets another share"
AS_TYPED = "each method runs with the options that were given"
SAVED = "the method runs as it was saved: --macs sets a share of the dense cost instead"
COLUMNS = {
    "of dense": "the multiply-adds with the method, as a share of the dense model's",
    "identity": "with nothing to reduce every output is the dense model's, bit for bit",
    "outputs": "every output has its shape, and no NaN or infinity",
    "macs": "vitrim.profile counts the multiply-adds that torch counts",
    "batch": "an image alone gets what it gets in a batch",
    "weights": "they are the dense model's own, every bit as it was",
    "saved": "saved and loaded, the model gives the same, bit for bit",
    "onnx": "exported to ONNX, it gives what it gives here (--export: of which methods)",
}
CELLS = {HOLDS: "ok", BROKEN: "FAILS", NOT_ASKED: "-"}


def run(config: Any) -> None:
    """Check what the arguments name. Raises SystemExit(1) where a check fails."""
    with progress("preparing the model"):
        subject = open_model(config.model)
        images = _images(subject, config.check)
        stacks = _stacks(subject, config)
    device = as_device(config.check.device)
    report = check_model(
        subject.dense.to(device),
        stacks,
        images=images.to(device),
        macs=config.method.macs,
        export=None if config.check.export == "none" else config.check.export,
    )
    printer = Printer(config.output.json, config.output.wide)
    _head(printer, subject, images, device, _setting(subject, config).format(macs=100 * config.method.macs))
    _print(printer, subject, report)
    write_json(config.output.json, {**asked(config), **_figures(subject, images, report)})
    if report.broken:
        raise SystemExit(DEVIATES)


def _images(subject: Subject, check: Any) -> Tensor:
    """Those of --data as the model wants them, else random ones."""
    if check.data is None:
        if check.limit is not None:
            raise ValueError(f"--limit {check.limit} is for images of --data: give that too")
        return random_images(subject.dense, RANDOM)
    dataset = open_dataset(check.data, subject.for_images, labels=False, limit=check.limit or IMAGES, seed=0)
    images, _ = read_all(open_loader(dataset, IMAGES))
    return images.to(next(subject.dense.parameters()).dtype)


def _stacks(subject: Subject, config: Any) -> Sequence[str | list[Method]] | None:
    """What to check: names, which run at --macs; methods with the options that were typed; None: all."""
    choice, typed = config.method, config.method.options
    names = _names(subject, config)
    if typed and not names:
        options = " and ".join(f"--{name.replace('_', '-')}" for name in typed)
        raise ValueError(f"{options}: say with --method whose option that is")
    if not typed and not _as_saved(subject, names):
        return names or None
    plans = MethodChoice(method=choice.method, macs=(choice.macs,) if _setting(subject, config) == AT_MACS else ())
    plans.options = typed
    return [list(plan.model.methods) for plan in many_plans(subject, plans, 0)]


def _names(subject: Subject, config: Any) -> list[str]:
    """The methods that are named, else the saved folder's; none: all."""
    own = [] if subject.saved is None else [method.name for method in subject.saved.methods]
    return list(config.method.method) or own


def _as_saved(subject: Subject, names: Sequence[str]) -> bool:
    return subject.saved is not None and list(names) == [method.name for method in subject.saved.methods]


def _setting(subject: Subject, config: Any) -> str:
    """At which setting the methods run: the budget, what was typed, or the folder's. A line with a place for --macs."""
    names = _names(subject, config)
    if any(METHODS[name].dial in config.method.options for name in names):
        return AS_TYPED
    return SAVED if _as_saved(subject, names) and "macs" not in config.given else AT_MACS


def _head(printer: Printer, subject: Subject, images: Tensor, device: torch.device, setting: str) -> None:
    height, width = images.shape[-2:]
    printer.line(f"{subject.name} on {device}, {counted(len(images), 'image')} of {height} x {width}")
    printer.line(setting)
    printer.line()


def _print(printer: Printer, subject: Subject, report: ModelReport) -> None:
    laws = [law.__name__ for law in LAWS]
    drops = {"weights": 3, "outputs": 2}  # what fails is said below the table too
    columns = [
        Column("method", text=True),
        Column("of dense", drop=1, whole=True),
        *(Column(law, drop=drops.get(law, 0)) for law in laws),
    ]
    shown = printer.table(columns, [_cells(method, laws) for method in report.methods])
    printer.line()
    for title in shown[1:]:
        printer.line(f"{title:<8}  {COLUMNS[title]}", indent=" " * 10)
    printer.line()
    for line in (*_said(report, BROKEN), *_said(report, NOT_ASKED), *_remarks(report)):
        printer.line(line)
    printer.line(f"{subject.name}: {report.conclusion}")


def _cells(method: MethodOnModel, laws: Sequence[str]) -> list[str]:
    found = {finding.law: CELLS[finding.state] for finding in method.findings}
    return [method.method, f"{100 * method.share:.1f} %", *(found.get(law, "") for law in laws)]


def _said(report: ModelReport, state: str) -> list[str]:
    """Why laws ended in that state, each reason once."""
    word = {BROKEN: "FAILS", NOT_ASKED: "skipped"}[state]
    by_reason: dict[tuple[str, str], list[str]] = {}
    for method in report.methods:
        for finding in method.findings:
            if finding.state == state:
                by_reason.setdefault((finding.law, finding.reason), []).append(method.method.partition(" ")[0])
    return [f"{word}: {law} of {few(names, 4)}: {reason}" for (law, reason), names in by_reason.items()]


def _remarks(report: ModelReport) -> list[str]:
    """What was checked with other options, or not at all."""
    changed = [f"changed: {in_flags(remark)}" for method in report.methods for remark in method.remarks]
    return [*changed, *(f"not run: {in_flags(refusal)}" for refusal in report.refused.values())]


def _figures(subject: Subject, images: Tensor, report: ModelReport) -> dict[str, Any]:
    methods = [
        {
            "method": method.method,
            "share": method.share,
            "checks": {f.law: {"state": f.state, "reason": f.reason} for f in method.findings},
        }
        for method in report.methods
    ]
    states = {"passed": HOLDS, "failed": BROKEN, "skipped": NOT_ASKED}
    return {
        "model": subject.name,
        "library": library_of(subject.dense).name,
        "images": len(images),
        "methods": methods,
        "refused": {name: str(refusal) for name, refusal in report.refused.items()},
        **{word: report.count(state) for word, state in states.items()},
        "vitrim": __version__,
        "torch": torch.__version__,
        **{library.name: library.version for library in LIBRARIES if library.in_use},
    }
