"""`vitrim evaluate` of an exported file without a dense model beside it: accuracy, cost and speed."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from ...common.files import write_json
from ...common.progress import progress
from .config_file import asked
from .exported import as_config, file_plans
from .measure import check_run, common_figures, data_figures, images_for, measure_alone
from .report import about, judged
from .rows import Row, accuracy_of, interval_of
from .table import Column, Printer, interval, percent, tokens_left


def evaluate_file(config: Any, path: Path) -> None:
    """Judge an exported file by labels. Raises ValueError for images without any, and for what is no such file."""
    setting = check_run(config.run)
    with progress("preparing the model"):
        plan = file_plans([path])[0]
    if config.data.bank is not None:
        raise ValueError(f"--bank {config.data.bank}: give --baseline, the dense model, too")
    said = plan.model.about
    loader = images_for(as_config(plan.model), config.data, setting)
    dataset: Any = loader.dataset
    if dataset.classes.unlabelled:
        raise ValueError(f"{config.data.data} has no labels: give --baseline, the dense model to be compared with")
    printer = Printer(config.output.json, config.output.wide)
    about(printer, f"{path.name} ({said['model']})", loader, setting)
    row = measure_alone(plan, said["output"] == "features", loader, setting)
    printer.line()
    printer.table([Column("", text=True), Column(plan.label)], _lines(row))
    printer.line()
    judged(printer, [row], loader, config.data)
    common = {**asked(config), **data_figures(config.model, config.data, loader)}
    write_json(config.output.json, {**common, **common_figures(said["model"], [row], setting), **row.figures(row)})


def _lines(row: Row) -> list[list[str]]:
    result, cost = row.result, row.cost
    what = "top-1, %" if result.top1 is not None else "nearest-neighbour accuracy, %"
    lines = [[what, percent(accuracy_of(result))], ["  95 % interval", interval(interval_of(result))]]
    if result.top5 is not None:
        lines += [["top-5, %", percent(result.top5)], ["  95 % interval", interval(result.top5_interval)]]
    return [
        *lines,
        ["GMACs", f"{cost.gmacs:.3f}"],
        ["of dense", f"{100 * cost.share:.1f} %"],
        ["patch tokens left", tokens_left(cost.patches, cost.tokens)],
        *([["images/s", f"{row.speed.images_per_s:.1f}"]] if row.timed else []),
    ]
