"""`vitrim benchmark`: dense and reduced models timed in turn, beside what their MACs promise."""

from __future__ import annotations

import csv
import json
from collections.abc import Sequence
from itertools import product
from pathlib import Path
from typing import Any

import torch

from ..backbones import library_of
from ..common.files import check_new, write_json, write_whole
from ..common.progress import counted_off, progress
from ..deploy.benchmark import Case, Timed, benchmark
from ..evaluate import environment
from .shared.config_file import asked
from .shared.model import Subject, open_model, open_untrained
from .shared.plans import Plan, many_plans
from .shared.table import Column, Printer

DENSE = "dense"
BUSY = 0.5  # of the median, between the tenth and the ninety-fifth percentile
COLUMNS = (
    Column("model", text=True),
    Column("ms"),
    Column("p10 to p95", drop=1),
    Column("speed-up"),
    Column("promised", drop=2),
    Column("kept"),
    Column("roofline", drop=3),
)


def run(config: Any) -> None:
    """Time what the arguments name."""
    options = config.run
    if options.csv is not None:
        check_new(options.csv, options.overwrite, (".csv",))
    before = None if options.vs is None else _read(options.vs)
    if options.threads is not None:
        torch.set_num_threads(options.threads)
    with progress("preparing the models"):
        named = config.model.checkpoint is not None
        subject = open_model(config.model) if named else open_untrained(config.model, options.seed)
        plans = many_plans(subject, config.method, options.seed)
        images = _images(subject, max(options.batch_size), options.seed)
    models = {DENSE: subject.dense, **{plan.label: plan.model for plan in plans}}
    printer = Printer(config.output.json, config.output.wide)
    where = environment(seed=options.seed)
    printer.line(f"{subject.name}: {where['processor']}, {where['threads']} threads, torch {where['torch']}")
    rows: list[Timed] = []
    cases = [Case(*each) for each in product(options.batch_size, options.runtime, options.precision)]
    for case in counted_off(cases, "benchmark"):
        try:
            found, refused = benchmark(models, images, case, options.rounds)
        except ValueError as error:  # the others may still be measured
            if len(cases) == 1:
                raise
            printer.line(f"{case} is left out: {error}")
            continue
        rows += found
        _print(printer, case, found, refused)
    if not rows:
        raise ValueError("none of these cases can be measured: give another --runtime or --precision")
    figures = [_figures(row, plans) for row in rows]
    if before is not None:
        _beside(printer, figures, before)
    if options.csv is not None:
        _write_csv(options.csv, figures)
    write_json(config.output.json, {**asked(config), "model": subject.name, **where, "rows": figures})


def _images(subject: Subject, count: int, seed: int) -> torch.Tensor:
    library = library_of(subject.dense)
    channels, height, width = library.data_config(subject.dense)["input_size"]
    size = library.image_size(subject.dense) or (height, width)
    return torch.randn(count, channels, *size, generator=torch.Generator().manual_seed(seed))


def _print(printer: Printer, case: Case, rows: Sequence[Timed], refused: dict[str, str]) -> None:
    printer.line()
    printer.line(f"{case}:")
    printer.table(COLUMNS, [_cells(row) for row in rows])
    for label, reason in refused.items():
        printer.line(f"{label} is left out: {reason}")
    worst = max(rows, key=lambda row: (row.p95 - row.p10) / row.ms)
    if worst.p95 - worst.p10 > BUSY * worst.ms:
        printer.line(
            f"the machine was busy: a batch of {worst.label} took {worst.p10:.1f} to {worst.p95:.1f} ms. Time again "
            "when nothing else runs, or with more --rounds"
        )


def _cells(row: Timed) -> list[str]:
    spread = f"{row.p10:.1f} to {row.p95:.1f}"
    share = f"{100 * row.roofline:.0f} %"
    if row.label == DENSE:
        return [row.label, f"{row.ms:.1f}", spread, "x 1.00", "", "", share]
    return [
        row.label,
        f"{row.ms:.1f}",
        spread,
        f"x {row.speed_up:.2f}",
        f"x {row.promised:.2f}",
        f"{row.kept:.2f}",
        share,
    ]


def _figures(row: Timed, plans: Sequence[Plan]) -> dict[str, Any]:
    plan = next((plan for plan in plans if plan.label == row.label), None)
    return {
        "label": row.label,
        "method": DENSE if plan is None else plan.name,
        "options": {} if plan is None else plan.options,
        **vars(row.case),
        "gmacs": row.cost.gmacs,
        "ms": row.ms,
        "ms_p10": row.p10,
        "ms_p95": row.p95,
        "speed_up": row.speed_up,
        "promised": row.promised,
        "kept": row.kept,
        "roofline": row.roofline,
    }


def _read(path: Path) -> list[dict[str, Any]]:
    """The rows of an earlier run. Raises ValueError for a file that holds none."""
    try:
        rows = json.loads(path.read_bytes())["rows"]
        return [row for row in rows if row["ms"] > 0 and row["label"] and row["runtime"]]
    except (OSError, ValueError, TypeError, KeyError) as error:
        raise ValueError(f"--vs {path} is no JSON that vitrim benchmark wrote") from error


def _beside(printer: Printer, rows: Sequence[dict[str, Any]], before: Sequence[dict[str, Any]]) -> None:
    """The same rows of another run beside these."""
    key = ("label", "batch_size", "runtime", "precision")
    known = {tuple(row.get(name) for name in key): row["ms"] for row in before}
    pairs = [(row, known[found]) for row in rows if (found := tuple(row[name] for name in key)) in known]
    printer.line()
    if not pairs:
        printer.line("the other run has none of these rows")
        return
    titles = (Column("model", text=True), Column("case", text=True), Column("other ms"), Column("ms"), Column("faster"))
    case = "batch {batch_size}, {runtime}, {precision}"
    printer.table(
        titles,
        [
            [row["label"], case.format(**row), f"{ms:.1f}", f"{row['ms']:.1f}", f"x {ms / row['ms']:.2f}"]
            for row, ms in pairs
        ],
    )


def _write_csv(path: Path, rows: Sequence[dict[str, Any]]) -> None:
    names = [name for name in rows[0] if name != "options"]

    def write(beside: str) -> None:
        with open(beside, "w", newline="", encoding="utf-8") as file:
            table = csv.DictWriter(file, names, extrasaction="ignore")
            table.writeheader()
            table.writerows(rows)

    write_whole(path, write)
