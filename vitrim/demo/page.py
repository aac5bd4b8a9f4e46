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

    template = Environment(autoescape=True, trim_blocks=True, lstrip_blocks=True).from_string(_TEMPLATE)
    names = _stage_names(examples, stage_names)
    views = [_example_view(example, names) for example in examples]
    words = {"title": title, "lead": lead, "footer": footer, "css": _CSS}
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


_CSS = """
:root { color-scheme: light dark; --ink: #1b2330; --soft: #5b6676; --line: #dfe4ea; --paper: #fbfcfd; --card: #fff;
  --good: #1a7f4b; --bad: #c0392b; }
@media (prefers-color-scheme: dark) { :root { --ink: #e7ebf0; --soft: #9aa6b5; --line: #2c3542; --paper: #12161c;
  --card: #1a2028; --good: #5fd39a; --bad: #ff8a7a; } }
* { box-sizing: border-box; }
body { margin: 0; background: var(--paper); color: var(--ink);
  font: 16px/1.55 system-ui, -apple-system, "Segoe UI", Roboto, sans-serif; }
main { max-width: 60rem; margin: 0 auto; padding: 2.5rem 1rem 4rem; }
h1 { font-size: clamp(1.6rem, 5vw, 2.2rem); line-height: 1.2; letter-spacing: -.02em; margin: 0 0 .5rem; }
h2 { font-size: 1.2rem; letter-spacing: -.01em; margin: 2.8rem 0 .9rem; }
.lead { font-size: 1.08rem; color: var(--soft); max-width: 44rem; margin: 0; }
.card { background: var(--card); border: 1px solid var(--line); border-radius: 12px; overflow-x: auto; }
table { border-spacing: 0; width: 100%; font-size: .92rem; font-variant-numeric: tabular-nums; }
th, td { padding: .55rem .8rem; text-align: right; white-space: nowrap; border-bottom: 1px solid var(--line); }
th:first-child { text-align: left; position: sticky; left: 0; background: var(--card); }
thead th { color: var(--soft); font-weight: 500; font-size: .82rem; }
tbody tr:last-child > * { border-bottom: 0; }
small { color: var(--soft); font-size: .82em; }
figure { margin: 0; }
.plot { padding: .75rem; background: #fff; }
.plot img { display: block; width: 100%; max-width: 46rem; height: auto; margin: 0 auto; }
.examples { display: grid; gap: 1rem; grid-template-columns: repeat(auto-fill, minmax(min(100%, 27rem), 1fr)); }
.example { padding: .8rem .9rem 1rem; }
.verdict { display: flex; flex-wrap: wrap; gap: .1rem 1rem; margin: 0 0 .6rem; font-size: .92rem; }
.good { color: var(--good); } .bad { color: var(--bad); }
.stages { display: grid; grid-auto-flow: column; grid-auto-columns: minmax(0, 1fr); gap: .5rem; }
.stages img { display: block; width: 100%; border-radius: 6px; image-rendering: pixelated; }
figcaption { font-size: .76rem; line-height: 1.35; margin-top: .35rem; }
figcaption small { display: block; font-size: 1em; }
footer { margin-top: 3rem; padding-top: 1rem; border-top: 1px solid var(--line); color: var(--soft);
  font-size: .85rem; }
"""

_TEMPLATE = """\
{% macro number(value, form, unit="") %}
{{ "\u2013" if value is none else form.format(value).replace("-", "\u2212") ~ unit }}
{%- endmacro %}
{% macro verdict(who, said, truth) %}
<span>{{ who }} <b class="{{ 'good' if said == truth else 'bad' }}">{{ said }} {{ "✓" if said == truth else "✗" }}</b>
</span>
{%- endmacro %}
<!DOCTYPE html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>{{ title }}</title>
<style>{{ css | safe }}</style>
</head>
<body><main>
<h1>{{ title }}</h1>
{% if lead %}<p class="lead">{{ lead }}</p>{% endif %}

<h2>Accuracy and cost</h2>
<div class="card"><table>
<thead><tr>{% for name in ["model", "GMACs", "of dense", "tokens left", "top-1 %", "change", "agreement %", "images/s",
"speed-up"] %}<th scope="col">{{ name }}</th>{% endfor %}</tr></thead>
<tbody>
{% for row in rows %}
<tr><th scope="row">{{ row.name }}</th><td>{{ number(row.gmacs, "{:.3f}") }}</td>
<td>{{ number(row.share, "{:.0f}", " %") }}</td><td>{{ row.tokens }}</td><td>{{ number(row.top1, "{:.1f}") }}
{% if row.top1_margin is not none %}<small>± {{ number(row.top1_margin, "{:.1f}") }}</small>{% endif %}</td>
<td>{{ number(row.change, "{:+.1f}") }}</td><td>{{ number(row.agreement, "{:.1f}") }}</td>
<td>{{ number(row.images_per_s, "{:.0f}") }}</td><td>{{ number(row.speedup, "{:.2f}", " \u00d7") }}</td></tr>
{% endfor %}
</tbody>
</table></div>

<h2>Accuracy against cost</h2>
<figure class="card plot"><img alt="Top-1 accuracy against multiply-adds" src="{{ picture }}"></figure>
{% if examples %}

<h2>Which patches were kept</h2>
<div class="examples">
{% for view in examples %}{% set example = view.example %}
<article class="card example">
<p class="verdict"><span>label <b>{{ example.label }}</b></span>
{{ verdict("dense", example.dense, example.label) }} {{ verdict("reduced", example.reduced, example.label) }}</p>
<div class="stages">
{% for column in view.columns %}
<figure><img alt="{{ column.name }}: {{ column.note }}" src="{{ column.uri }}">
<figcaption>{{ column.name }}<small>{{ column.note }}</small></figcaption></figure>
{% endfor %}
</div></article>
{% endfor %}
</div>
{% endif %}
{% if footer %}<footer>{{ footer }}</footer>{% endif %}
</main></body>
</html>
"""
