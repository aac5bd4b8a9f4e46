"""The demo's report: one HTML file that needs nothing else, neither network nor neighbouring files.

It says what to conclude, shows the comparison table with its columns explained, the accuracy-against-cost picture and,
for a few pictures, what each method keeps, side by side. Everything comes in as plain numbers, strings and arrays, so
this page can show any model and any method.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from jaxtyping import Int, UInt8

from ..common.extras import require
from ..common.files import write_whole
from ..view.drawing import draw_groups, enlarged, image_uri, plot_uri

TEMPLATE = Path(__file__).with_name("page.html.j2")
# The table's columns, each with what it says.
COLUMNS = (
    ("model", "the method, with the setting that meets the cost. Dense: the whole model, nothing left out"),
    ("GMACs", "cost of one picture: billions of multiply-accumulates, which papers call FLOPs"),
    ("of dense", "that cost as a share of the dense model's"),
    ("tokens left", "patch tokens after each block where their number changes. A fused token counts as one"),
    ("{accuracy} %", "{meaning}, with half the width of its 95 % interval"),
    ("change", "percentage points of accuracy gained or lost against the dense model"),
    ("{likeness}", "{likeness_meaning}"),
    ("images/s", "pictures a second on this machine, in batches, measured in turn with the dense model"),
    ("speed-up", "that speed divided by the dense model's"),
)
TOP1 = {
    "accuracy": "top-1",
    "meaning": "share of the test pictures whose class is right",
    "likeness": "agreement %",
    "likeness_meaning": "share of the pictures for which the dense model says the same, right or wrong",
}
KNN = {
    "accuracy": "kNN",
    "meaning": "share of the pictures whose nearest neighbours, by the model's features, are of their class",
    "likeness": "cosine",
    "likeness_meaning": "likeness of the features to the dense model's; 1: the same",
}


@dataclass(frozen=True)
class TableRow:
    """One line of the comparison. Percentages are 0 to 100; None prints as a dash (the dense row has no change).

    `tokens`: patch tokens left after the last place, or after each ("138 97 68"). `accuracy_margin`: half the width of
    the 95 % interval, in points. `likeness`: agreement in percent, or cosine. `speedup`: a factor over dense;
    `doubtful_speed` marks it by ~. `gmacs`: billions of multiply-adds for one image.
    `note`: what the figures do not say; rows may share one.
    """

    name: str
    gmacs: float
    share: float
    tokens: int | str
    accuracy: float | None
    images_per_s: float | None
    accuracy_margin: float | None = None
    change: float | None = None
    likeness: float | None = None
    speedup: float | None = None
    doubtful_speed: bool = False
    note: str = ""


@dataclass(frozen=True)
class Shown:
    """What one method made of one picture.

    groups:  for every patch the number of the token that stands for it at the end, -1: none
    caption: that in numbers
    answer:  the class that it says; empty: it says none
    """

    method: str
    groups: Int[np.ndarray, "rows columns"]
    caption: str
    answer: str = ""


@dataclass(frozen=True)
class Example:
    """One picture, its label, what the dense model says, and what every method made of it."""

    image: UInt8[np.ndarray, "h w *channels"]
    label: str
    dense: str
    methods: Sequence[Shown]


def write_page(
    path: str | Path,
    *,
    table_rows: Sequence[TableRow],
    picture: bytes | str | None,
    examples: Sequence[Example],
    title: str = "vitrim demo",
    lead: str = "",
    conclusion: Sequence[str] = (),
    notes: Sequence[str] = (),
    examples_lead: str = "",
    footer: str = "",
    words: dict[str, str] = TOP1,
) -> Path:
    """Write the report to `path` at once or not at all. Returns the path.

    Args:
        picture: accuracy against cost, the bytes of a PNG or the text (or bytes) of an SVG; None: none.
        lead: one or two plain sentences under the heading.
        conclusion: what to conclude, in sentences; the first is printed large.
        notes: what the table does not show, such as methods left out.
        examples_lead: which rows of the table the example pictures are of.
        footer: how the figures were measured.
        words: what accuracy is here, `TOP1` or `KNN`.

    Raises:
        ValueError: `path` cannot be written; the picture is neither PNG nor SVG; patches do not fit an image.

    Example:
        >>> rows = [TableRow("dense", 0.2, 100, 256, 95.0, 300.0)]
        >>> write_page("page.html", table_rows=rows, picture=None, examples=[]).name
        'page.html'
    """
    require("demo", "write_page")
    from jinja2 import Environment

    template = Environment(autoescape=True, trim_blocks=True, lstrip_blocks=True).from_string(
        TEMPLATE.read_text(encoding="utf-8")
    )
    html = template.render(
        {"title": title, "lead": lead, "footer": footer, "conclusion": conclusion},
        notes=[*notes, *dict.fromkeys(row.note for row in table_rows if row.note)],
        columns=[(name.format(**words), meaning.format(**words)) for name, meaning in COLUMNS],
        rows=table_rows,
        picture=None if picture is None else plot_uri(picture),
        examples=[_view(example) for example in examples],
        examples_lead=examples_lead,
        likeness_form="{:.4f}" if words is KNN else "{:.1f}",
    )
    return write_whole(path, lambda beside: Path(beside).write_text(html, encoding="utf-8"))


def _view(example: Example) -> dict:
    """What the template needs of an example: its pictures as text."""
    colours = example.image.ndim == 3 and example.image.shape[2] == 3
    whole = {"method": "dense", "answer": example.dense, "caption": _patches(example)}
    views = [{**whole, "uri": image_uri(enlarged(example.image), colours)}]
    for shown in example.methods:
        uri = image_uri(draw_groups(example.image, shown.groups), colours)
        views.append({"method": shown.method, "answer": shown.answer, "caption": shown.caption, "uri": uri})
    return {"label": example.label, "columns": views}


def _patches(example: Example) -> str:
    return f"{np.asarray(example.methods[0].groups).size} patches" if example.methods else ""
