"""`vitrim tune`: the best plan for a budget, searched on photographs without labels."""

from __future__ import annotations

import os
import signal
from collections.abc import Generator, Sequence
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from .._version import __version__
from ..common.extras import require
from ..common.files import write_json
from ..common.interruption import Stopped, as_interruption
from ..common.progress import progress
from ..common.text import counted, shortened
from ..data.loading import open_dataset, open_loader
from ..evaluate.accuracy import environment
from ..evaluate.timing import SPREAD, as_device, best_device
from ..runtime.plan_file import write_plans
from ..tune import Latency, Row, tune
from ..tune.drawing import draw
from ..tune.search import FEWEST_PHOTOGRAPHS
from ..tune.trials import kept_plans
from .shared.config_file import asked
from .shared.early_extras import each_extra
from .shared.export_images import read_all
from .shared.measure import CPU_BATCH, OTHER_BATCH
from .shared.model import Subject, open_model
from .shared.table import Column, Printer

TRIALS, BUDGET = ".trials.jsonl", 0.5


def run(config: Any) -> None:
    """Search what the arguments name."""
    search = config.search
    each_extra(require, config)
    if search.threads is not None:
        torch.set_num_threads(search.threads)
    device = as_device(search.device or best_device())
    with progress("preparing the model"):
        subject = open_model(config.model)
        if subject.saved is not None:
            raise ValueError(f"{subject.name} is reduced already: give the dense model")
    images, held_out = _images(subject, search, device)
    printer = Printer(config.output.json, config.output.wide)
    printer.line(
        f"{subject.name}; searched on {counted(len(images), 'photograph')} of {shortened(search.data)}, reported on "
        f"{counted(len(held_out), 'other')}; seed {search.seed}"
    )
    with _telling_how_to_go_on(search):
        rows, tables = _search(subject, search, images, held_out, device)
    _table(printer, rows)
    write_plans(search.out, [row.plan for row in _best(rows)], {**_about(config, device), **tables})
    printer.line(f"the plan is {search.out}: vitrim.reduce(model, {str(search.out)!r}), or --plan {search.out}")
    if search.picture is not None:
        draw(search.picture, subject.name, rows, tables.get("tables"))
        printer.line(f"the picture is {search.picture}")
    figures = [{**asdict(row), "plan": asdict(row.plan)} for row in rows]
    write_json(
        config.output.json,
        {**asked(config), "model": subject.name, "rows": figures, **tables, **_about(config, device)},
    )


def _images(subject: Subject, search: Any, device: torch.device) -> tuple[Tensor, Tensor]:
    """Photographs to search on, and others to report on."""
    wanted = search.images + search.held_out
    with progress("reading photographs"):
        dataset = open_dataset(
            search.data, subject.for_images, crop_pct=search.crop_pct, labels=False, limit=wanted, seed=search.seed
        )
        images, _ = read_all(open_loader(dataset, workers=search.workers))
    # They come in the order of their names, often class by class.
    images = images[torch.randperm(len(images), generator=torch.Generator().manual_seed(search.seed))].to(device)
    if len(images) < min(wanted, search.images + FEWEST_PHOTOGRAPHS, 2 * FEWEST_PHOTOGRAPHS):
        raise ValueError(
            f"{shortened(search.data)} has {counted(len(images), 'photograph')} that can be read, and a search needs "
            f"{2 * FEWEST_PHOTOGRAPHS} or more, better {wanted}"
        )
    cut = len(images) * search.images // wanted
    return images[:cut], images[cut:]


def _search(
    subject: Subject, search: Any, images: Tensor, held_out: Tensor, device: torch.device
) -> tuple[list[Row], dict[str, Any]]:
    """The rows, and of a search for milliseconds its tables."""
    latency = None
    if search.latency:
        batch = search.batch_size or (CPU_BATCH if device.type == "cpu" else OTHER_BATCH)
        latency = Latency(batch, search.precision)
    budgets = search.latency or search.macs or (BUDGET,)
    rows = tune(
        subject.dense.to(device), images, search.method, budgets, held_out=held_out, trials=search.trials,
        seed=search.seed, latency=latency, journal=_journal(search), restart=search.overwrite,
    )  # fmt: skip
    return rows, {} if latency is None else {"tables": latency.tables}


def _journal(search: Any) -> Path:
    out = Path(os.path.realpath(search.out.expanduser()))
    return out.with_name(out.name + TRIALS)


@contextmanager
def _telling_how_to_go_on(search: Any) -> Generator[None]:
    """Ctrl-C and SIGTERM end the search with a line that says what is kept."""
    try:
        with as_interruption(signal.SIGTERM):
            yield
    except KeyboardInterrupt as stop:
        kept = counted(kept_plans(_journal(search)), "plan is", "plans are")
        number = getattr(stop, "code", 130) - 128
        raise Stopped(f"stopped: {kept} judged and kept; give the same command again to go on", number) from None


def _best(rows: Sequence[Row]) -> list[Row]:
    """The best row of each budget, from the largest on; rows are sorted so."""
    return list({row.plan.budget: row for row in reversed(rows)}.values())[::-1]


def _table(printer: Printer, rows: Sequence[Row]) -> None:
    """What was found, beside the method's own plan of the same cost."""
    milliseconds = [Column("time"), Column("promised"), Column("own time")] if rows[0].latency else []
    distance = "KL" if _classes(rows) else "1-cos"
    figures = [
        Column("macs"),
        Column("agree %"),
        Column("own agree", drop=2),
        Column(distance),
        Column(f"own {distance}"),
    ]
    searched = [Column(f"{distance} searched", drop=1)]
    head = [Column("method", text=True), Column("budget"), *milliseconds, *figures, *searched]
    printer.table(head, [_cells(row) for row in rows])
    for row in rows:
        _say_no_nearer(printer, row)
    if rows[0].latency:
        _say_where(printer, rows[0].plan.measured_on)
        _say_busy(printer, rows)
    judged = "agree: the class is the dense model's; KL: to its classes" if _classes(rows) else "1-cos: of the features"
    printer.line(
        f"{judged}; on photographs that the search never saw, searched: on those that it saw; own: the method's own "
        "plan of that cost"
    )


def _classes(rows: Sequence[Row]) -> bool:
    """Whether classes were compared, and not features."""
    return any(row.held_out_agreement is not None for row in rows) or all(row.held_out_distance is None for row in rows)


def _say_no_nearer(printer: Printer, row: Row) -> None:
    """Where the search has only learned its own photographs."""
    own = (row.flat or {}).get("held_out_distance")
    if own is not None and row.held_out_distance is not None and row.held_out_distance >= own:
        printer.line(
            f"{row.plan.names} at {row.plan.budget:g}: on photographs that the search never saw its plan is no nearer "
            "to the dense model than the method's own one. Search on more (--images)"
        )


def _say_where(printer: Printer, at: dict[str, Any]) -> None:
    threads = f", {counted(at['threads'], 'thread')}" if "threads" in at else ""
    printer.line(
        f"time: share of the dense model's {at['dense_ms']:.1f} ms, timed in turn with it; promised: by the table; "
        f"batch {at['batch_size']}, {at['precision']}, {at['device']}{threads}"
    )


def _say_busy(printer: Printer, rows: Sequence[Row]) -> None:
    spread = max((row.latency or {})["high"] / (row.latency or {})["low"] for row in rows)
    if spread > 1 + SPREAD:
        printer.line(
            f"the machine was busy: over the rounds a plan's share of the milliseconds differs by {spread:.1f} times. "
            "Its table misleads: search again when nothing else runs"
        )


def _cells(row: Row) -> list[str]:
    flat: Any = row.flat or {}
    figures = (row.held_out_agreement, flat.get("held_out_agreement"))
    distances = (row.held_out_distance, flat.get("held_out_distance"), row.distance)
    shown = [f"{value:.1f}" if value is not None else "-" for value in figures]
    shown += ["-" if value is None else f"{value:.4f}" if value >= 0.001 else f"{value:.1e}" for value in distances]
    shares = row.latency or {}
    times = [f"{shares[name]:.3f}" if name in shares else "-" for name in ("measured", "promised", "flat_measured")]
    return [row.plan.names, f"{row.plan.budget:g}", *(times if shares else ()), f"{row.plan.share:.3f}", *shown]


def _about(config: Any, device: torch.device) -> dict[str, Any]:
    search = config.search
    asked_for = {key: getattr(search, key) for key in ("trials", "images", "held_out", "seed")}
    return {"search": asked_for, "vitrim": __version__, "environment": environment(device, search.seed)}
