"""`vitrim visualize`: what becomes of the patches of photographs, as a figure or as a page that steps through them."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch

from .._version import __version__
from ..common.extras import require
from ..common.files import unused, write_json
from ..common.progress import progress
from ..common.text import counted, portable, shortened, visible
from ..data.pictures import UnreadablePicture, find_pictures
from ..evaluate.timing import as_device
from ..view.figures import MOST_ROWS, check_blocks, draw, save_figure, short_name
from ..view.looking import Seen, look
from ..view.page import write_page
from .commands.visualize import PAGES
from .shared.config_file import asked
from .shared.early_extras import each_extra
from .shared.measure import best_device
from .shared.model import open_model
from .shared.plans import Plan, many_plans
from .shared.table import Column, Printer, say

DEFAULT_FIGURE = Path("patches.png")
HEADS = ("photograph", "model", "MACs", "answer")


def run(config: Any) -> None:
    """Draw what the arguments name."""
    each_extra(require, config)
    asks = config.look
    out, files = asks.out or unused(DEFAULT_FIGURE), find_pictures(asks.images)
    plans, name = _models(config)
    _check_size(out, len(files[: asks.limit]) * len(plans))
    seen, skipped = _look(plans, files[: asks.limit])
    printer = Printer(config.output.json, config.output.wide)
    printer.table([Column(head, text=head != "MACs") for head in HEADS], _lines(seen))
    printer.line()
    left_out = _left_out(len(files), asks.limit)
    if left_out:
        printer.line(left_out)
    if out.suffix.lower() in PAGES:
        notes = [f"Model: {name}.", *([left_out] if left_out else [])]
        write_page(out, list(seen.values()), [visible(file) for file in seen], notes=notes)
    else:
        save_figure(out, draw(list(seen.values()), [short_name(file) for file in seen], asks.blocks or None))
    kind = "page" if out.suffix.lower() in PAGES else "picture"
    printer.line(f"the {kind} is {out.expanduser().resolve()}")
    figures = {"model": name, "images": _figures(seen, plans), "skipped": skipped, "vitrim": __version__}
    write_json(config.output.json, {**asked(config), **figures})


def _models(config: Any) -> tuple[list[Plan], str]:
    """The reduced models, on the device that was asked for, and the name of the dense one."""
    torch.manual_seed(config.look.seed)
    if config.look.threads is not None:
        torch.set_num_threads(config.look.threads)
    device = as_device(config.look.device or best_device())
    with progress("preparing the models"):
        subject = open_model(config.model)
        plans = many_plans(subject, config.method, config.look.seed, rates=())
        for plan in plans:
            plan.model.to(device)
    if config.look.blocks:
        check_blocks(config.look.blocks, plans[0].model.body.depth)
    return plans, subject.name


def _check_size(out: Path, rows: int) -> None:
    """Raise ValueError where a figure would be too large; a page is as long as it must be."""
    if rows > MOST_ROWS and out.suffix.lower() not in PAGES:
        raise ValueError(
            f"a figure of {rows} rows, photographs times models, is too large, {MOST_ROWS} are drawn: give a smaller "
            "--limit, or a page: --out FILE.html"
        )


def _look(plans: Sequence[Plan], files: Sequence[Path]) -> tuple[dict[str, list[Seen]], list[str]]:
    """What each model makes of each photograph, by its name; and why others cannot be read, which is told at once.

    Raises ValueError where none can be read.
    """
    models, seen, skipped = [plan.model for plan in plans], {}, []
    with progress("looking at the photographs", total=len(files)) as report:
        for number, file in enumerate(files):
            try:
                seen[portable(str(file))] = look(models, file)
            except UnreadablePicture as error:
                skipped.append(str(error))
                if len(files) > 1:
                    say(f"{error}; it is left out")
            report(number + 1)
    if not seen:
        raise ValueError(skipped[0] if len(files) == 1 else f"none of the {len(files)} files can be read")
    return seen, skipped


def _lines(seen: Mapping[str, Sequence[Seen]]) -> Iterator[list[str]]:
    """The table: for each photograph what the dense model says, and each reduced one."""
    for file, row in seen.items():
        name = shortened(file, 36)
        for one in row:
            if one.dense is not None and (one is row[0] or one.dense != row[0].dense):
                yield [name, "dense", "100 %", str(one.dense)]
                name = ""
            answer = one.said if one.reduced is None else str(one.reduced)
            yield [name, one.title, f"{100 * one.share:.0f} %", answer]
            name = ""


def _left_out(found: int, limit: int) -> str:
    more = counted(found - limit, "more photograph is", "more photographs are")
    return f"{more} left out: --limit {found} shows all" if found > limit else ""


def _figures(seen: Mapping[str, Sequence[Seen]], plans: Sequence[Plan]) -> list[dict[str, Any]]:
    """For JSON."""
    return [
        {"file": file, "rows": [_row(one, plan) for one, plan in zip(row, plans, strict=True)]}
        for file, row in seen.items()
    ]


def _row(seen: Seen, plan: Plan) -> dict[str, Any]:
    blocks = range(len(seen.fates.codes))
    return {
        "method": plan.name,
        "options": plan.options,
        "share": seen.share,
        "dense": None if seen.dense is None else asdict(seen.dense),
        "reduced": None if seen.reduced is None else asdict(seen.reduced),
        **({} if seen.cosine is None else {"cosine": seen.cosine}),
        "blocks": [seen.fates.count(block) for block in blocks],
    }
