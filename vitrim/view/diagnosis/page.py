"""The page of a diagnosis: one HTML file, with nothing to fetch: tables, plots, and the photographs that differ."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from ...common.extras import require
from ...common.files import write_whole
from ...common.text import counted, visible
from ..drawing import image_uri, plot_uri
from .answers import Differing
from .diagnosing import DENSE, Diagnosis
from .plots import as_svg, plots
from .tables import more_classes, reasons_in_words, sections

TEMPLATE = Path(__file__).with_name("page.html.j2")
LARGEST = 320  # pixels: the longer side of a photograph there


def write_page(
    path: str | Path, found: Diagnosis, title: str = "What reduction does", notes: Sequence[str] = ()
) -> Path:
    """Write the page to `path` at once or not at all. Returns the path.

    notes: what it is about, such as the model and the images

    Raises ValueError where the file cannot be written, and where matplotlib or jinja2 is not installed.

    Example:
        >>> loader = vitrim.data.open_loader(vitrim.data.open_dataset("photos", model), workers=0)
        >>> write_page("diagnosis.html", vitrim.view.diagnose(vitrim.reduce(model, "evit", keep=0.5), loader)).name
        'diagnosis.html'
    """
    require("plot", "a page")
    from jinja2 import Environment

    template = Environment(autoescape=True, trim_blocks=True, lstrip_blocks=True).from_string(
        TEMPLATE.read_text(encoding="utf-8")
    )
    html = template.render(
        title=title,
        notes=notes,
        sections=list(_sections(found)),
        differing=differing_in_words(found),
        photographs=[_photograph(each) for each in found.differing],
    )
    return write_whole(path, lambda beside: Path(beside).write_text(html, encoding="utf-8"))


def differing_in_words(found: Diagnosis) -> str:
    """How many photographs differ, and which are kept.

    Example:
        >>> loader = vitrim.data.open_loader(vitrim.data.open_dataset("photos", model), workers=0)
        >>> differing_in_words(vitrim.view.diagnose(vitrim.reduce(model, "topk", keep=1.0), loader))
        'All models say the same of all 8 images.'
    """
    images, kept = counted(found.images, "image"), len(found.differing)
    if not found.classes:
        return f"The models give features: of {images} the {kept} whose features differ most from the dense model's."
    if not found.found:
        return f"All models say the same of all {images}."
    shown = f"; here are the {kept} of which the dense one is surest" if 0 < kept < found.found else ""
    return f"Of {images} {found.found:,} are called otherwise by some model than by the dense one{shown}."


def _sections(found: Diagnosis) -> Iterator[dict[str, Any]]:
    drawn = plots(found)
    for section in sections(found):
        plot = plot_uri(as_svg(drawn[section.name])) if section.name in drawn else None
        more = [more_classes(found)] if section.name in ("classes", "top1") and more_classes(found) else []
        yield {**vars(section), "plot": plot, "reasons": [*reasons_in_words(section.left_out), *more]}


def _photograph(one: Differing) -> dict[str, Any]:
    step = max(1, -(-max(one.pixels.shape[:2]) // LARGEST))
    uri = image_uri(one.pixels[::step, ::step], colours=one.pixels.ndim == 3)
    return {"name": visible(one.name), "label": one.label, "uri": uri, "answers": list(_answers(one))}


def _answers(one: Differing) -> Iterator[tuple[str, str, bool]]:
    """Each model, what it says, and whether it is something else than the dense one says."""
    if one.dense is not None:
        yield DENSE, str(one.dense), False
        for name, said in one.reduced.items():
            yield name, str(said), said.label != one.dense.label
    for name, cosine in one.cosines.items():
        yield name, f"cosine {cosine:.3f}", False
