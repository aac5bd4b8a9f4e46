"""What `evaluate`, `compare` and `demo` print in the same words."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch.utils.data import DataLoader

from ...common.text import counted, few
from ...data import Photographs, StreamedPhotographs
from ...data.classes import Classes, in_words
from ...evaluate.timing import processor_name
from .measure import Row, Setting, accuracy_of, change_of, images_in, interval_of
from .table import Column, Printer, interval, percent, signed, tokens_left

NAMED = 10  # skipped images named on the terminal; the JSON names all


def about(printer: Printer, name: str, loader: DataLoader, setting: Setting) -> None:
    """What is measured, on what, and what of the data is left out."""
    dataset: Any = loader.dataset
    height, width = dataset.config["input_size"][1:]
    printer.line(
        f"{name}, {images_in_words(dataset)} at {height} x {width} (crop {dataset.config['crop_pct']:g}), labels "
        f"{in_words(dataset.classes)}; {machine(setting)}"
    )
    left_out(printer, dataset)


def images_in_words(dataset: Photographs | StreamedPhotographs) -> str:
    """How many images, and how a limit chose them: `48 of 3,925 images (drawn at random ...)`."""
    count = images_in(dataset)
    chosen = f" ({dataset.choice})" if dataset.choice else ""
    if count is None:
        return f"a stream of images{chosen}"
    every = f" of {len(dataset.source):,}" if chosen and isinstance(dataset, Photographs) else ""
    return f"{count:,}{every} images{chosen}"


def left_out(printer: Printer, dataset: Photographs | StreamedPhotographs) -> None:
    """What lies among the photographs and is not read, counted by kind."""
    if dataset.left_out:
        kinds = ", ".join(f"{kind} ({count:,})" for kind, count in sorted(dataset.left_out.items()))
        printer.line(f"left out: {kinds}")


def machine(setting: Setting) -> str:
    """Processor, threads, numbers and batch size in words."""
    threads = f", {counted(torch.get_num_threads(), 'thread')}" if setting.device.type == "cpu" else ""
    return f"{processor_name(setting.device)}{threads}, {setting.dtype}, batches of {setting.batch_size}"


def comparison(printer: Printer, rows: Sequence[Row]) -> None:
    """The table of `compare`; `rows[0]` is the dense model. Where there is no room, what others imply goes first:
    images/s goes with the speed-up, tokens with the MACs."""
    accuracy = "top-1" if rows[0].result.top1 is not None else "kNN"
    likeness = "agreement" if accuracy == "top-1" else "cosine"
    columns = [
        Column("model", text=True),
        Column("GMACs", drop=1),
        Column("share", drop=2),
        Column("tokens left", drop=5),
        Column(accuracy),
        Column("95 %", drop=3),
        Column("change"),
        Column(likeness, drop=4),
        Column("images/s", drop=6),
        Column("speed-up"),
    ]
    printer.table(columns, [_cells(row, rows[0]) for row in rows])


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


def judged(printer: Printer, rows: Sequence[Row], loader: DataLoader) -> None:
    """How many images the figures are of, which could not be read, and what makes the figures doubtful.

    `rows[0]` is the dense model.
    """
    result = rows[0].result
    if result.skipped:
        printer.line(f"{result.images:,} images were judged; {len(result.skipped):,} cannot be read:")
        for entry in result.skipped[:NAMED]:
            printer.line(f"  {entry.name}: {entry.reason}")
        if len(result.skipped) > NAMED:
            printer.line(f"  and {len(result.skipped) - NAMED} more (--json names all)")
    not_finite(printer, rows)
    if (classes := getattr(loader.dataset, "classes", None)) and (doubt := doubtful(rows[0], classes)):
        printer.line(doubt)


def not_finite(printer: Printer, rows: Sequence[Row]) -> None:
    """Which models gave outputs that are no numbers."""
    for row in rows:
        if row.result.nonfinite:
            printer.line(
                f"{row.label}: the outputs for {row.result.nonfinite:,} of {counted(row.result.images, 'image')} hold "
                "NaN or infinity and count as wrong"
            )


def doubtful(dense: Row, classes: Classes) -> str:
    """A remark where classes were numbered by order and the dense model is no better than chance: it may have learned
    them in another order. Empty otherwise."""
    interval, count = dense.result.top1_interval, len(classes.names)
    if not classes.by_order or interval is None or count < 2 or interval[0] > 100 / count:
        return ""
    other = f"torchvision's ImageFolder numbers them {few(classes.other_order)}" if classes.other_order else ""
    return (
        f"top-1 of the dense model is no better than chance ({100 / count:.1f} % for {count} classes). The classes are "
        f"numbered {few(list(classes.mapping))}; {other or 'the model may have learned them in another order'}: "
        "give --class-map FILE"
    )
