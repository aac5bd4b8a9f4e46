"""What `evaluate`, `compare` and `demo` print in the same words."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch.utils.data import DataLoader

from ...common.text import counted, few
from ...data import Photographs, StreamedPhotographs
from ...data.classes import Classes, in_words
from ...evaluate import EvaluationResult
from ...evaluate.timing import processor_name
from .bank import bank_in_words
from .measure import Setting, images_in
from .options import DataOptions
from .rows import Row, accuracy_of, change_of, doubtful_speed, interval_of
from .table import Column, Printer, interval, percent, signed, tokens_left

NO_LABELS = (
    "Without labels models are judged by their likeness to the dense one; for accuracies give one folder per class, or "
    "--label-file FILE with lines `file label`."
)
NAMED = 10  # skipped images named on the terminal; the JSON names all


def about(printer: Printer, name: str, loader: DataLoader, setting: Setting) -> None:
    """What is measured, on what, and what of the data is left out."""
    dataset: Any = loader.dataset
    height, width = dataset.config["input_size"][1:]
    printer.line(
        f"{name}, {images_in_words(dataset)} at {height} x {width} (crop {dataset.config['crop_pct']:g}), "
        f"{_labels(dataset.classes)}; {machine(setting)}"
    )
    if dataset.classes.unlabelled:
        printer.line(NO_LABELS)
    left_out(printer, dataset)


def _labels(classes: Classes) -> str:
    return "no labels" if classes.unlabelled else f"labels {in_words(classes)}"


def images_in_words(dataset: Photographs | StreamedPhotographs) -> str:
    """How many images, and how a limit chose them: `48 of 3,925 images (drawn at random ...)`."""
    count = images_in(dataset)
    chosen = f" ({dataset.choice})" if dataset.choice else ""
    if count is None:
        return f"a stream of images{chosen}"
    if chosen and isinstance(dataset, Photographs):
        return f"{count:,} of {counted(len(dataset.source), 'image')}{chosen}"
    return f"{counted(count, 'image')}{chosen}"


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
    images/s goes with the speed-up, tokens and GMACs with the share. What the figures are worth, intervals and
    agreement, stays longest."""
    judgement = _judgement(rows[0].result, rows[1].result)
    columns = [
        Column("model", text=True),
        Column("GMACs", drop=4),
        Column("share", drop=1),
        Column("tokens left", drop=5),
        *judgement,
        *([Column("images/s", drop=6), Column("speed-up")] if rows[0].timed else []),
    ]
    printer.table(columns, [_cells(row, rows[0], len(judgement)) for row in rows])


def _judgement(dense: EvaluationResult, reduced: EvaluationResult) -> list[Column]:
    """The columns of how models are judged: by accuracy, or without labels by their likeness to the dense one."""
    if accuracy_of(dense) is not None:
        name, likeness = ("top-1", "agreement") if dense.top1 is not None else ("kNN", "cosine")
        return [Column(name), Column("95 %", drop=3), Column("change"), Column(likeness, drop=2)]
    agreement = [Column("agreement"), Column("95 %", drop=2)] if reduced.agreement is not None else []
    return [*agreement, Column("cosine"), Column("95 % of it", drop=3)]


def _judged(row: Row, dense: Row) -> list[str]:
    """The cells of these columns."""
    result, is_dense = row.result, row is dense
    if accuracy_of(dense.result) is not None:
        likeness = percent(result.agreement) if result.top1 is not None else percent(result.cosine, 4)
        change = signed(change_of(result, dense.result))
        cells = [percent(accuracy_of(result)), interval(interval_of(result))]
        return [*cells, *(["", ""] if is_dense else [change, likeness])]
    agreement = [percent(result.agreement), interval(result.agreement_interval)]
    cosine = [percent(result.cosine, 4), interval(result.cosine_interval, 4)]
    if is_dense:
        return []
    return [*(agreement if result.agreement is not None else []), *cosine]


def _cells(row: Row, dense: Row, columns: int) -> list[str]:
    judged = _judged(row, dense)
    speed = [f"{row.speed.images_per_s:.1f}", speed_up(row)] if dense.timed else []
    return [
        row.short,
        f"{row.cost.gmacs:.3f}",
        f"{100 * row.cost.share:.1f} %",
        tokens_left(row.cost.patches, row.cost.tokens),
        *judged,
        *[""] * (columns - len(judged)),
        *speed,
    ]


def speed_up(row: Row) -> str:
    """`x 1.47`; `~ 1.47` where the rounds tell no one speed-up (`disturbed` says why), and `~` alone where they tell
    nothing at all."""
    if row.speed.high - row.speed.low > row.speed.speed_up:
        return "~"
    return f"{'~' if doubtful_speed(row) else 'x'} {row.speed.speed_up:.2f}"


def judged(printer: Printer, rows: Sequence[Row], loader: DataLoader, data: DataOptions) -> None:
    """How many images the figures are of, which could not be read, and what makes the figures doubtful.

    `rows[0]` is the dense model.
    """
    result = rows[0].result
    if words := bank_in_words(result, data):
        printer.line(words)
    unreadable(printer, result)
    not_finite(printer, rows)
    if (classes := getattr(loader.dataset, "classes", None)) and (doubt := doubtful(rows[0], classes)):
        printer.line(doubt)


def unreadable(printer: Printer, result: EvaluationResult) -> None:
    """Which images could not be read, if there are any."""
    if result.skipped:
        were = f"{counted(result.images, 'image')} {'was' if result.images == 1 else 'were'} judged"
        printer.line(f"{were}; {len(result.skipped):,} cannot be read:")
        for entry in result.skipped[:NAMED]:
            printer.line(f"  {entry.name}: {entry.reason}")
        if len(result.skipped) > NAMED:
            printer.line(f"  and {len(result.skipped) - NAMED} more (--json names all)")


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
