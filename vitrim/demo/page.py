"""The demo's report: one HTML file that needs nothing else, neither network nor neighbouring files.

It shows the comparison table, the accuracy-against-cost picture and, for a few pictures, which patches were kept.
Everything comes in as plain numbers, strings and arrays, so this page can show any model and any method.
"""

import base64
import io
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from jaxtyping import Bool, UInt8
from PIL import Image

from ..common.extras import require
from ..common.files import write_whole

# A mid-grey blue that stands off from black ink, from white paper and from both page backgrounds.
DROPPED_COLOUR, DROPPED_SHARE = np.array([122, 138, 160]), 0.8
TEMPLATE = Path(__file__).with_name("page.html.j2")
PNG_SIGNATURE = b"\x89PNG\r\n\x1a\n"


@dataclass(frozen=True)
class TableRow:
    """One line of the comparison. Percentages are 0 to 100; None prints as a dash (the dense row has no change).

    `tokens`: patch tokens left after the last place, or after each ("138 97 68"). `top1_margin`: half the width of the
    95 % interval, in points. `speedup`: a factor over dense. `gmacs`: billions of multiply-adds for one image.
    """

    name: str
    gmacs: float
    share: float
    tokens: int | str
    top1: float
    images_per_s: float
    top1_margin: float | None = None
    change: float | None = None
    agreement: float | None = None
    speedup: float | None = None


@dataclass(frozen=True)
class Example:
    """One picture and what became of its patches: a mask [rows, columns] after every reduction place, True = kept."""

    image: UInt8[np.ndarray, "h w *channels"]
    label: str
    dense: str
    reduced: str
    kept: Sequence[Bool[np.ndarray, "rows columns"]]


def grid_mask(indices: Sequence[int], rows: int, columns: int) -> Bool[np.ndarray, "rows columns"]:
    """Kept patch indices (row by row from the top left, prefix tokens not counted) as a mask for `Example.kept`.

    Raises:
        ValueError: an index lies outside the grid.
    """
    chosen = np.asarray(indices, dtype=np.int64)
    if chosen.size and not 0 <= chosen.min() <= chosen.max() < rows * columns:
        raise ValueError(f"patch indices {chosen.min()} to {chosen.max()} do not fit a grid of {rows} x {columns}")
    mask = np.zeros(rows * columns, dtype=bool)
    mask[chosen] = True
    return mask.reshape(rows, columns)


def write_page(
    path: str | Path,
    *,
    table_rows: Sequence[TableRow],
    picture: bytes | str,
    examples: Sequence[Example],
    title: str = "vitrim demo",
    lead: str = "",
    stage_names: Sequence[str] = (),
    footer: str = "",
) -> Path:
    """Write the report to `path` at once or not at all. Returns the path.

    Args:
        picture: accuracy against cost, the bytes of a PNG or the text (or bytes) of an SVG.
        lead: one or two plain sentences under the heading.
        stage_names: a heading for each mask of `Example.kept`, for instance "after block 3"; default: place 1, 2, ...
        footer: how the figures were measured.

    Raises:
        ValueError: `path` cannot be written; the picture is neither PNG nor SVG; a mask does not fit its image; the
            examples have different numbers of masks, or not as many as `stage_names`.
    """
    require("demo", "write_page")
    from jinja2 import Environment

    template = Environment(autoescape=True, trim_blocks=True, lstrip_blocks=True).from_string(
        TEMPLATE.read_text(encoding="utf-8")
    )
    names = _stage_names(examples, stage_names)
    views = [_example_view(example, names) for example in examples]
    words = {"title": title, "lead": lead, "footer": footer}
    html = template.render(words, rows=table_rows, picture=_picture_uri(picture), examples=views)
    return write_whole(path, lambda beside: Path(beside).write_text(html, encoding="utf-8"))


def _stage_names(examples: Sequence[Example], names: Sequence[str]) -> list[str]:
    counts = sorted({len(example.kept) for example in examples})
    if len(counts) > 1:
        raise ValueError(f"examples have {counts} masks; give every example one mask for each reduction place")
    if names and counts and len(names) != counts[0]:
        raise ValueError(f"{len(names)} stage names for {counts[0]} masks; give each mask one")
    return list(names) or [f"place {number}" for number in range(1, sum(counts) + 1)]


def _example_view(example: Example, names: Sequence[str]) -> dict:
    total = np.asarray(example.kept[0]).size if example.kept else 0
    columns = [{"name": "picture", "note": f"{total} patches", "uri": _png_uri(_rgb(example.image))}]
    for name, mask in zip(names, example.kept, strict=True):
        note = f"{int(np.sum(mask))} kept"
        columns.append({"name": name, "note": note, "uri": _png_uri(dim_dropped(example.image, mask))})
    return {"example": example, "columns": columns}


def dim_dropped(
    image: UInt8[np.ndarray, "h w *channels"], kept: Bool[np.ndarray, "rows columns"]
) -> UInt8[np.ndarray, "h w 3"]:
    """The image with its dropped patches faded to a flat colour.

    Raises:
        ValueError: the image's height and width are not whole multiples of the mask's rows and columns.
    """
    rgb, kept = _rgb(image), np.asarray(kept, dtype=bool)
    if kept.ndim != 2 or rgb.shape[0] % kept.shape[0] or rgb.shape[1] % kept.shape[1]:
        raise ValueError(f"a mask of shape {kept.shape} does not divide an image of {rgb.shape[0]} x {rgb.shape[1]}")
    pixels = np.kron(kept, np.ones((rgb.shape[0] // kept.shape[0], rgb.shape[1] // kept.shape[1]), dtype=bool))
    faded = (1 - DROPPED_SHARE) * rgb + DROPPED_SHARE * DROPPED_COLOUR
    return np.where(pixels[..., None], rgb, faded.round()).astype(np.uint8)


def _rgb(image: np.ndarray) -> UInt8[np.ndarray, "h w 3"]:
    grey = image if image.ndim == 3 else image[..., None]
    if image.dtype != np.uint8 or grey.shape[2] not in (1, 3):
        raise ValueError(f"an image of {image.dtype} and shape {image.shape}; give uint8 [h, w] or [h, w, 3]")
    return np.broadcast_to(grey, (*grey.shape[:2], 3))


def _png_uri(rgb: UInt8[np.ndarray, "h w 3"]) -> str:
    buffer = io.BytesIO()
    Image.fromarray(np.ascontiguousarray(rgb)).save(buffer, "PNG", optimize=True)
    return _data_uri("image/png", buffer.getvalue())


def _picture_uri(picture: bytes | str) -> str:
    data = picture.encode() if isinstance(picture, str) else picture
    if data.startswith(PNG_SIGNATURE):
        return _data_uri("image/png", data)
    if b"<svg" in data:
        return _data_uri("image/svg+xml", data)
    raise ValueError("the picture is neither PNG nor SVG; give the bytes of a PNG or the text of an SVG")


def _data_uri(kind: str, data: bytes) -> str:
    return f"data:{kind};base64,{base64.b64encode(data).decode()}"
