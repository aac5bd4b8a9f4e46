"""`vitrim compare`: methods at several settings beside the dense model, as a table and a picture."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from ..common.extras import require
from ..common.files import write_json
from ..common.progress import progress
from ..runtime.measured import weights_figures
from .shared.bank import bank_figures, open_bank
from .shared.conclusions import conclusions
from .shared.config_file import asked
from .shared.early_extras import each_extra
from .shared.exported import FilePlan, any_method, check_fits, file_plans, on_cpu
from .shared.measure import check_run, common_figures, data_figures, measure, open_images
from .shared.model import Subject, open_model
from .shared.picture import draw
from .shared.plans import Plan, many_plans, remarks
from .shared.report import about, comparison, judged
from .shared.rows import Row, disturbed
from .shared.shown import about_run, open_run, remarks_on
from .shared.table import Printer
from .shared.zero_shot import names_figures, on_names, open_names

OTHER_RUNTIME = (
    "dense runs in PyTorch, and an exported file in the runtime of its format: its speed-up is that of the runtime and "
    "of the tokens together (vitrim export --method evit --keep 1 writes a file of all tokens, to compare with)"
)


def run(config: Any) -> None:
    """Compare what the arguments name."""
    if config.more.show is not None:
        _show(config)
        return
    each_extra(require, config)
    for path in config.more.file:
        on_cpu(config.run, path)
    setting = check_run(config.run)
    with progress("preparing the models"):
        subject = open_model(config.model)
        plans = _plans(subject, config, setting.seed)
    loader = open_images(subject, config.data, setting)
    bank, names = open_bank(subject, config.data, setting, loader), open_names(subject, config.data, loader)
    printer = Printer(config.output.json, config.output.wide)
    about(printer, subject.name, loader, setting)
    for remark in remarks([plan for plan in plans if isinstance(plan, Plan)], config.method):
        printer.line(remark)
    weights = weights_figures(subject.dense)
    rows = measure(subject, plans, loader, setting, bank, **on_names(names))
    printer.line()
    comparison(printer, rows)
    printer.line()
    judged(printer, rows, loader, config.data)
    if names is not None:
        printer.line(names.words)
    if config.more.file:
        printer.line(OTHER_RUNTIME)
    _conclude(printer, rows, config, subject.name)
    common = {
        **asked(config),
        **data_figures(config.model, config.data, loader),
        **common_figures(subject.name, rows, setting),
        **weights,
        **bank_figures(rows[0].result, config.data),
        **names_figures(names),
    }
    write_json(config.output.json, {**common, "rows": [row.figures(rows[0]) for row in rows]})


def _show(config: Any) -> None:
    """An earlier run once more."""
    each_extra(require, config)
    run, rows = open_run(config.more.show)
    printer = Printer(None, config.output.wide)
    for line in (about_run(run, config.more.show), *remarks_on(rows), ""):
        printer.line(line)
    comparison(printer, rows)
    printer.line()
    _conclude(printer, rows, config, run["model"])


def _conclude(printer: Printer, rows: Sequence[Row], config: Any, name: str) -> None:
    """What the figures are worth, what they say to use, and their picture."""
    for sentence in filter(None, [disturbed(rows), *conclusions(rows, config)]):
        printer.line(sentence)
    if config.more.out is not None:
        printer.line(f"the picture is {draw(config.more.out, name, rows)}")


def _plans(subject: Subject, config: Any, seed: int) -> list[Plan | FilePlan]:
    """A row for each reduced model and each exported file; of files alone where no method is asked for."""
    files = file_plans(config.more.file)
    for plan in files:
        check_fits(plan.model, subject.dense)
    reduced = [] if files and not any_method(config.method) else many_plans(subject, config.method, seed)
    return [*reduced, *files]
