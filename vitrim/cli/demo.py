"""`vitrim demo`: the whole of `compare` as a page, on data and weights that come with the package, or on one's own."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch.utils.data import DataLoader

from ..common.extras import require
from ..common.files import unused, write_json
from ..common.text import counted
from ..demo.digits import DigitCanvases
from ..demo.model import NAME, load_model
from ..demo.page import write_page
from .shared.config_file import asked
from .shared.demo_page import SHOWN_COST, conclusion_of, examples, names_of, page_row, words_of
from .shared.demo_plans import DIGIT_CAUTION, DIGIT_NOTES, digit_plans, own_plans
from .shared.early_extras import each_extra
from .shared.measure import Setting, check_run, common_figures, data_figures, measure, open_images
from .shared.model import Subject, open_model
from .shared.picture import svg
from .shared.plans import Plan
from .shared.report import about, comparison, judged, machine, not_finite
from .shared.rows import Row, accuracy_of, disturbed
from .shared.table import Printer

DEFAULT_PAGE = Path("demo.html")
DIGITS_LEAD = (
    "A small Vision Transformer reads handwritten digits among distracting fragments. Each method leaves patch tokens "
    "out, or merges them, so that the model costs less. Random and Grid are the floor: they choose patches without "
    "looking at the picture."
)
OWN_LEAD = (
    "Each method leaves patch tokens out, or merges them, so that the model costs less, without any training. Random "
    "and Grid are the floor: they choose patches without looking at the picture."
)


@dataclass(frozen=True)
class Scene:
    """What is compared, on which pictures, and what the page says about it."""

    subject: Subject
    plans: Sequence[Plan]
    loader: DataLoader
    title: str
    lead: str
    notes: Sequence[str]
    caution: Sequence[str] = ()


def run(config: Any) -> None:
    """Run the demo."""
    each_extra(require, config)
    out = config.more.out or unused(DEFAULT_PAGE)
    own = _is_own(config)
    # More threads gain little on so small a model, and on a busy machine they wait for each other.
    threads = 1 if config.run.threads is None and not own else config.run.threads
    setting = check_run(dataclasses.replace(config.run, threads=threads))
    printer = Printer(config.output.json, config.output.wide)
    scene = _own(config, setting, printer) if own else _digits(config, setting, printer)
    rows = measure(scene.subject, scene.plans, scene.loader, setting)
    printer.line()
    comparison(printer, rows)
    printer.line()
    judged(printer, rows, scene.loader, config.data) if own else not_finite(printer, rows)
    if remark := disturbed(rows):
        printer.line(remark)
    for sentence in _said(scene, rows):
        printer.line(sentence)
    printer.line(f"the page is {_write_page(out, scene, rows, setting).resolve()}")
    found = data_figures(config.model, config.data, scene.loader) if own else {}
    figures = {**found, **common_figures(scene.subject.name, rows, setting), "conclusion": _said(scene, rows)}
    write_json(config.output.json, {**asked(config), **figures, "rows": [r.figures(rows[0]) for r in rows]})


def _is_own(config: Any) -> bool:
    """Whether the page is asked for on a model and pictures of the user's own; ValueError for half of it."""
    named = config.model.model is not None or config.model.checkpoint is not None
    if named and config.data.data is None:
        raise ValueError("vitrim demo with a model of your own needs --data: a folder with one folder per class")
    if config.data.data is not None and not named:
        raise ValueError(f"--data {config.data.data}: give --model NAME too, or --checkpoint FOLDER from save()")
    if named and "images" in config.given:
        raise ValueError("--images counts the digits of the demo's own: use --limit for images of yours")
    if not named and (typed := _of_own(config)):
        raise ValueError(f"--{typed[0]} is for images of your own: give --model and --data too")
    return named


def _of_own(config: Any) -> list[str]:
    """What was typed that only a model or images of the user's own have."""
    groups = (config.model, config.data)
    names = {field.name.replace("_", "-") for group in groups for field in dataclasses.fields(group)}
    return [name for name in config.given if name in names]


def _digits(config: Any, setting: Setting, printer: Printer) -> Scene:
    dataset = DigitCanvases("test", config.more.images, setting.seed)
    subject = Subject(NAME, load_model())
    printer.line(f"{NAME}, {len(dataset)} pictures of digits among fragments; {machine(setting)}")
    plans, loader = digit_plans(subject.dense, setting.seed), DataLoader(dataset, setting.batch_size)
    return Scene(
        subject, plans, loader, "vitrim demo: what a model can leave out", DIGITS_LEAD, DIGIT_NOTES, (DIGIT_CAUTION,)
    )


def _own(config: Any, setting: Setting, printer: Printer) -> Scene:
    subject = open_model(config.model)
    plans, left_out = own_plans(subject, setting.seed)
    loader = open_images(subject, config.data, setting)
    about(printer, subject.name, loader, setting)
    for reason in left_out:
        printer.line(reason)
    title = f"vitrim demo: {subject.name} on {config.data.data}"
    return Scene(subject, plans, loader, title, OWN_LEAD, left_out)


def _said(scene: Scene, rows: Sequence[Row]) -> list[str]:
    """What to conclude, and what not to."""
    first, *others = conclusion_of(rows) or [""]
    return [*filter(None, [first]), *scene.caution, *others]


def _write_page(path: Path, scene: Scene, rows: Sequence[Row], setting: Setting) -> Path:
    dense = rows[0]
    drawable = all(accuracy_of(row.result) is not None for row in rows)
    images = counted(dense.result.images, "test picture")
    return write_page(
        path,
        table_rows=[page_row(row, dense) for row in rows],
        picture=svg(scene.subject.name, rows, names_of(rows)) if drawable else None,
        examples=examples(scene.subject, scene.plans, scene.loader.dataset, setting.device),
        title=scene.title,
        lead=scene.lead,
        conclusion=_said(scene, rows),
        notes=[*filter(None, [disturbed(rows)]), *scene.notes],
        examples_lead=f"All methods at {100 * SHOWN_COST:g} % of the dense cost.",
        footer=f"{images}. {machine(setting)}. Blocks count from 0.",
        words=words_of(dense),
    )
