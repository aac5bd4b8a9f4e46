"""The page: one HTML file, with nothing to fetch, that steps through the blocks of each model on each photograph."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from ..common.extras import require
from ..common.files import write_whole
from .drawing import HEAT_SCALE, SMALLEST_SIDE, block_layers, enlarged, heat_layer, image_uri
from .looking import Seen

TEMPLATE = Path(__file__).with_name("page.html.j2")


def write_page(
    path: str | Path,
    seen: Sequence[Sequence[Seen]],
    names: Sequence[str],
    title: str = "What becomes of the patches",
    notes: Sequence[str] = (),
) -> Path:
    """Write the page to `path` at once or not at all. Returns the path.

    seen:  for each picture what each model made of it
    names: of the pictures
    notes: what the pictures do not show, such as files that were left out

    Raises ValueError where the file cannot be written.

    Example:
        >>> from vitrim.view.looking import look
        >>> seen = look([vitrim.reduce(model, "evit", keep=0.5)], "photos/cat/0.png")
        >>> write_page("cat.html", [seen], ["0.png"]).name
        'cat.html'
    """
    require("plot", "a page")
    from jinja2 import Environment

    text = TEMPLATE.read_text(encoding="utf-8")
    template = Environment(autoescape=True, trim_blocks=True, lstrip_blocks=True).from_string(text)
    depth = max(len(one.fates.codes) for row in seen for one in row)
    scale = ", ".join(f"rgb({red} {green} {blue})" for red, green, blue in HEAT_SCALE.tolist())
    pictures = [_picture(name, row) for name, row in zip(names, seen, strict=True)]
    html = template.render(title=title, notes=notes, depth=depth, scale=scale, pictures=pictures)
    return write_whole(path, lambda beside: Path(beside).write_text(html, encoding="utf-8"))


def _picture(name: str, row: Sequence[Seen]) -> dict[str, Any]:
    same = len({one.dense for one in row}) == 1
    dense = f"dense says {row[0].dense}" if same and row[0].dense is not None else ""
    models = [_model(one, not same, None if _same(one, row[0]) else photograph_uri(one)) for one in row]
    return {"name": name, "dense": dense, "photograph": photograph_uri(row[0]), "models": models}


def _same(seen: Seen, first: Seen) -> bool:
    """Whether two models get the same pixels."""
    return np.array_equal(seen.pixels, first.pixels)


def photograph_uri(seen: Seen) -> str:
    """As a data URI; small ones enlarged, so that their pixels stay sharp."""
    small = min(seen.pixels.shape[:2]) < SMALLEST_SIDE // 2
    return image_uri(enlarged(seen.pixels) if small else seen.pixels, colours=seen.pixels.ndim == 3)


def _model(seen: Seen, tells_dense: bool, photograph: str | None) -> dict[str, Any]:
    """What the template needs of a model: a layer and a sentence for each block; a photograph, if it is its own."""
    fates, blocks = seen.fates, range(len(seen.fates.codes))
    layers = block_layers(seen.pixels, fates.groups, fates.ringed)
    columns = list(dict.fromkeys(word for i in blocks for word in fates.count(i)))
    return {
        "title": seen.title,
        "share": f"{100 * seen.share:.0f} % of the MACs",
        "said": seen.said + (f"; dense says {seen.dense}" if tells_dense else ""),
        "photograph": photograph,
        "blocks": [(uri, fates.caption(i)) for i, uri in zip(blocks, layers, strict=True)],
        "heat": image_uri(heat_layer(seen.pixels, fates.work, len(blocks))),
        "worked": f"{fates.work.min():.3g} to {fates.work.max():.3g} blocks, on average {fates.work.mean():.1f}",
        "columns": columns,
        "rows": [[fates.count(i).get(word, 0) for word in columns] for i in blocks],
    }
