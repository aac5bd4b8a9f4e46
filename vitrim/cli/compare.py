"""`vitrim compare`: methods at several settings beside the dense model, as a table and a picture."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

from ..common.extras import require
from ..common.files import check_output, unused, write_json
from .shared.measure import accuracy_of, check_run, common_figures, data_figures, measure, open_images
from .shared.method_options import method_options_class
from .shared.model import open_model
from .shared.options import DataOptions, ModelOptions, OutputOptions, RunOptions, hinted
from .shared.parse import parse
from .shared.picture import ENDINGS, draw
from .shared.plans import DEFAULT_RATES, many_plans, remarks
from .shared.report import about, comparison, judged
from .shared.table import Printer

DEFAULT_PICTURE = Path("compare.png")
MethodOptions: Any = method_options_class("several values: one row for each", " ".join(map(str, DEFAULT_RATES)))


@dataclass(kw_only=True)
class CompareConfig:
    """Methods at several keep rates or budgets beside the dense model: one table and one picture.

    All models see the same images in one pass. Then all are timed in turn on one batch, without decoding. An option
    goes to every method that takes it. Models without a classifier are judged by the cosine of their features with the
    dense model's and by nearest neighbours.
    """

    model: ModelOptions
    method: MethodOptions
    data: DataOptions
    run: RunOptions
    picture: Annotated[Path | None, hinted("compare.png; compare-2.png and so on where that is there")] = None
    """where to draw accuracy against cost (.png or .svg); a file of this name is replaced"""
    output: OutputOptions


def run(arguments: Sequence[str], prog: str) -> None:
    """Compare what the arguments name."""
    config = parse(CompareConfig, arguments, prog)
    require("plot", prog)
    check_output(config.output.json)
    picture = config.picture or unused(DEFAULT_PICTURE)
    check_output(picture, ENDINGS)
    setting = check_run(config.run)
    subject = open_model(config.model)
    plans = many_plans(subject, config.method, setting.seed)
    loader = open_images(subject, config.data, setting)
    printer = Printer(config.output.json, config.output.wide)
    about(printer, subject.name, loader, setting)
    for remark in remarks(plans, config.method):
        printer.line(remark)
    rows = measure(subject, plans, loader, setting)
    printer.line()
    comparison(printer, rows)
    printer.line()
    judged(printer, rows, loader)
    if accuracy_of(rows[0].result) is None:
        printer.line("no picture: one image has no neighbours to be judged by")
    else:
        printer.line(f"the picture is {draw(picture, subject.name, rows)}")
    common = {**data_figures(config.model, config.data, loader), **common_figures(subject.name, rows, setting)}
    write_json(config.output.json, {**common, "rows": [row.figures(rows[0]) for row in rows]})
