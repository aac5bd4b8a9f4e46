"""What `vitrim benchmark` prints, and the same for JSON and CSV."""

from __future__ import annotations

import csv
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from ...common.files import write_whole
from ...deploy.benchmark import Case, Timed
from ...deploy.detail import PARTS, Detail
from ...deploy.memory import SEEN
from ...evaluate import EvaluationResult
from ..commands.benchmark import OtherRun
from .exported import FilePlan
from .plans import Plan
from .rows import DENSE, accuracy_of, change_of
from .table import Column, Printer, percent, signed

BUSY = 0.5  # of the median, between the tenth and the ninety-fifth percentile
COLUMNS = (
    Column("model", text=True),
    Column("ms"),
    Column("p10 to p95", drop=4),
    Column("speed-up"),
    Column("promised", drop=1),
    Column("kept"),
    Column("roofline", drop=2),
    Column("memory", drop=3),
)
RUNS_IN = Column("runs in", text=True)  # where exported files do not run in what the others do
PART_TITLES = {"ends": "embed + head", "rest": "the rest"}
PART_DROPS = {"rest": 3, "norms": 2, "ends": 1}
KEY = ("model", "label", "batch_size", "runtime", "precision")
NOT_IN_CSV = ("options", "detail")
Results = Mapping[str, EvaluationResult]


def show_speeds(printer: Printer, case: Case, rows: Sequence[Timed], refused: Mapping[str, str], device: str) -> None:
    """The table of a case, what is left out of it, and what makes its figures doubtful."""
    printer.line()
    shown = [row for row in rows if not row.instead_of]
    if all(row.case == case for row in shown):
        printer.line(f"{case}:")
        printer.table(COLUMNS, [_cells(row) for row in shown])
    else:
        printer.line(f"batch {case.batch_size}, {case.precision}:")
        model, *figures = COLUMNS
        cells = [[label, row.case.runtime, *rest] for row in shown for label, *rest in [_cells(row)]]
        printer.table([model, RUNS_IN, *figures], cells)
    for label, reason in refused.items():
        printer.line(f"{label} is left out: {reason}")
    if rows[0].peak_bytes is None:
        where = " and ".join(SEEN.get(device, ())) or "no runtime"
        printer.line(f"memory is not known: PyTorch sees it on {device} for {where}")
    worst = max(rows, key=lambda row: (row.p95 - row.p10) / row.ms)
    if worst.p95 - worst.p10 > BUSY * worst.ms:
        printer.line(
            f"the machine was busy: a batch of {worst.label} took {worst.p10:.1f} to {worst.p95:.1f} ms. Time again "
            "when nothing else runs, or with more --rounds"
        )


def _cells(row: Timed) -> list[str]:
    spread, share = f"{row.p10:.1f} to {row.p95:.1f}", f"{100 * row.roofline:.0f} %"
    memory = "" if row.peak_bytes is None else f"{row.peak_bytes / 1e6:.1f} MB"
    ratios = ["x 1.00", "", ""]
    if row.label != DENSE:
        ratios = [f"x {row.speed_up:.2f}", f"x {row.promised:.2f}", f"{row.kept:.2f}"]
    return [row.label, f"{row.ms:.1f}", spread, *ratios, share, memory]


def show_detail(printer: Printer, case: Case, rows: Sequence[Detail]) -> None:
    """Shares of the time of a forward, one row for each model."""
    printer.line()
    printer.line(f"{case}, where the time of a forward goes, in percent:")
    titles = [Column(PART_TITLES.get(part, part), drop=PART_DROPS.get(part, 0)) for part in PARTS]
    printer.table(
        [Column("model", text=True), *titles, Column("ms", drop=4)],
        [[row.label, *(f"{100 * row.share(part):.1f}" for part in PARTS), f"{row.whole:.1f}"] for row in rows],
    )


def show_instead(printer: Printer, case: Case, rows: Sequence[Timed], results: Results) -> None:
    """Beside each reduced model what takes about as long; with images, how well each of them judges."""
    found = [row for row in rows if row.instead_of]
    if not found:
        return
    printer.line()
    printer.line(f"{case}, at about the same time, instead ({len(rows)} models in the same rounds):")
    columns = [Column("model", text=True), Column("GMACs", drop=1), Column("ms"), Column("of its time")]
    columns += [Column("top-1"), Column("change", drop=2), Column("agreement")] if results else []
    table = []
    for row in rows:
        beside = [other for other in found if row.label in other.instead_of]
        if beside:
            table += [_beside_cells(each, row, results) for each in (row, *beside)]
    printer.table(columns, table)


def _beside_cells(row: Timed, reduced: Timed, results: Results) -> list[str]:
    own = row is reduced
    cells = [row.label if own else f"  {row.label}", f"{row.cost.gmacs:.3f}", f"{row.ms:.1f}"]
    cells.append("" if own else f"{100 * row.ms / reduced.ms:.0f} %")
    if not results:
        return cells
    if row.label not in results:
        return [*cells, "", "", ""]
    found = results[row.label]
    change = signed(change_of(found, results[DENSE]))
    return [*cells, percent(accuracy_of(found)), change, percent(found.agreement)]


def figures_of(model: str, row: Timed, plans: Sequence[Plan | FilePlan]) -> dict[str, Any]:
    """A row for JSON."""
    plan = next((plan for plan in plans if plan.label == row.label), None)
    return {
        "model": model,
        "label": row.label,
        "method": DENSE if plan is None else plan.name,
        "options": {} if plan is None else plan.options,
        **vars(row.case),
        "gmacs": row.cost.gmacs,
        "params": row.cost.params,
        "ms": row.ms,
        "ms_p10": row.p10,
        "ms_p95": row.p95,
        "speed_up": row.speed_up,
        "promised": row.promised,
        "kept": row.kept,
        "roofline": row.roofline,
        "peak_bytes": row.peak_bytes,
        "kind": row.kind,
        "instead_of": list(row.instead_of),
    }


def judged_figures(result: EvaluationResult | None, dense: EvaluationResult | None) -> dict[str, Any]:
    """How a row's model judges, for JSON; empty where it was not asked."""
    if result is None or dense is None:
        return {}
    values = {"top1": result.top1, "knn": result.knn, "agreement": result.agreement, "cosine": result.cosine}
    return {**values, "change": change_of(result, dense)}


def show_other_run(printer: Printer, rows: Sequence[dict[str, Any]], before: OtherRun, where: dict[str, Any]) -> None:
    """The same rows of another run beside these; what differs between the machines is said first."""
    known = {tuple(row.get(name) for name in KEY): row["ms"] for row in before.rows}
    pairs = [(row, known[found]) for row in rows if (found := tuple(row[name] for name in KEY)) in known]
    printer.line()
    if not pairs:
        printer.line("the other run has none of these rows")
        return
    for name, other in before.where.items():
        if other != where.get(name):
            printer.line(f"another {name} than in the other run: {where.get(name)} here, {other} there")
    titles = (Column("model", text=True), Column("case", text=True), Column("other ms"), Column("ms"), Column("faster"))
    several = len({row["model"] for row in rows}) > 1
    label = "{model}, {label}" if several else "{label}"
    case = "batch {batch_size}, {runtime}, {precision}"
    printer.table(
        titles,
        [
            [label.format(**row), case.format(**row), f"{ms:.1f}", f"{row['ms']:.1f}", f"x {ms / row['ms']:.2f}"]
            for row, ms in pairs
        ],
    )


def write_csv(path: Path, rows: Sequence[dict[str, Any]]) -> None:
    """The rows as a table, whole or not there."""
    names = list(dict.fromkeys(name for row in rows for name in row if name not in NOT_IN_CSV))

    def write(beside: str) -> None:
        with open(beside, "w", newline="", encoding="utf-8") as file:
            table = csv.DictWriter(file, names, extrasaction="ignore")
            table.writeheader()
            table.writerows({**row, "instead_of": "; ".join(row["instead_of"])} for row in rows)

    write_whole(path, write)
