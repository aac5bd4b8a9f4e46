"""What `evaluate`, `compare` and `demo` print in the same words."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch.utils.data import DataLoader

from ...evaluate.accuracy import EvaluationResult
from ...evaluate.timing import processor_name
from .measure import Row, Setting, accuracy_of, change_of, interval_of
from .table import Report, interval, percent, signed, tokens_left

NAMED = 10  # skipped images named on the terminal; the JSON names all


def about(name: str, loader: DataLoader, setting: Setting) -> str:
    """One line: what is measured, on what."""
    dataset = loader.dataset
    count = len(dataset) if hasattr(dataset, "__len__") else dataset.size
    images = f"{count:,} images" if count else "a stream of images"
    height, width = dataset.config["input_size"][1:]
    return (
        f"{name}, {images} at {height} x {width} (crop {dataset.config['crop_pct']:g}), labels "
        f"{dataset.classes.rule}; {machine(setting)}"
    )


def machine(setting: Setting) -> str:
    """Processor, threads, numbers and batch size in words."""
    threads = f", {torch.get_num_threads()} threads" if setting.device.type == "cpu" else ""
    return f"{processor_name(setting.device)}{threads}, {setting.dtype}, batches of {setting.batch_size}"


def comparison(report: Report, rows: Sequence[Row]) -> None:
    """The table of `compare`; `rows[0]` is the dense model."""
    accuracy = "top-1" if rows[0].result.top1 is not None else "kNN"
    likeness = "agreement" if accuracy == "top-1" else "cosine"
    columns = ["", "GMACs", "share", "tokens left", accuracy, "95 %", "change", likeness, "images/s", "speed-up"]
    report.table(columns, [_cells(row, rows[0]) for row in rows])


def _cells(row: Row, dense: Row) -> list[str]:
    result, is_dense = row.result, row is dense
    likeness = percent(result.agreement) if result.top1 is not None else percent(result.cosine, 4)
    return [
        row.label,
        f"{row.cost.gmacs:.3f}",
        f"{100 * row.cost.share:.1f} %",
        tokens_left(row.cost.patches, row.cost.tokens),
        percent(accuracy_of(result)),
        interval(interval_of(result)),
        "" if is_dense else signed(change_of(result, dense.result)),
        "" if is_dense else likeness,
        f"{row.speed.images_per_s:.1f}",
        f"x {row.speed.speed_up:.2f}",
    ]


def skipped(report: Report, result: EvaluationResult) -> None:
    """Which images could not be read, and whether any output was not finite."""
    if result.skipped:
        report.line(f"{len(result.skipped)} images were skipped, as they cannot be read:")
        for entry in result.skipped[:NAMED]:
            report.line(f"  {entry.name}: {entry.reason}")
        if len(result.skipped) > NAMED:
            report.line(f"  and {len(result.skipped) - NAMED} more (--json names all)")
