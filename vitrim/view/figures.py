"""The figure: photographs, and what each method does with their patches from stage to stage, side by side."""

from __future__ import annotations

import io
import re
import textwrap
import warnings
from collections.abc import Sequence
from itertools import groupby
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from torch import nn

from ..common.errors import OptionError
from ..common.extras import require
from ..common.files import write_whole
from ..common.kinds_given import one_or_several
from ..common.text import shortened
from .drawing import (
    DROPPED_COLOUR,
    HEAT_SCALE,
    RING_COLOUR,
    draw_groups,
    enlarged,
    group_colours,
    heat_layer,
    laid_over,
)
from .looking import Picture, Seen, look

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

FEW, MOST = 4, 6  # stages of a method that has stages; columns of a figure
MOST_ROWS = 100  # a figure of so many is 29,000 pixels high; matplotlib draws none of 65,536
# Inches: the side of a patch picture, the lines above and below it, the width of the text, the height of the key.
TILE, LINES, TEXT, KEY = 1.5, 0.4, 1.45, 0.6
SMALL, WIDTH = 7, 22  # points; characters of a line of text
# No date and no version: the same pictures make the same file.
NO_DATE = {"svg": {"Date": None}, "pdf": {"CreationDate": None, "Producer": None}, "png": {"Software": None}}
STYLE: Any = {"font.size": 8, "svg.hashsalt": "vitrim", "svg.fonttype": "none", "text.parse_math": False}


def figure(models: nn.Module | Sequence[nn.Module], pictures: Any, blocks: Sequence[int] | None = None) -> Figure:
    """A matplotlib figure of what reduced models do with the patches of pictures; a notebook shows it.

    models:   from `vitrim.reduce`; one, or several that are shown below one another
    pictures: a PIL image, a file, or a prepared image [3, h, w]; or several
    blocks:   which blocks to show; default: those in which the stages begin, at most 6

    For every picture there is a row for each model: its answer beside the dense model's, the patches in each of the
    blocks (faded when idle, frozen or pruned; tinted with a border when they share a token; ringed when re-selected),
    and in how many blocks each patch took part.

    Raises ValueError for models that are not reduced, pictures that cannot be read, blocks that the models do not have,
    and where matplotlib is not installed.

    Example:
        >>> fast = [vitrim.reduce(model, "evit", keep=0.5), vitrim.reduce(model, "tome", r=8)]
        >>> drawn = figure(fast, ["photos/cat/0.png", "photos/dog/0.png"])
        >>> drawn.savefig("patches.png")
    """
    shown, pictures = one_or_several(models), one_or_several(pictures)
    if not shown or not pictures:
        raise ValueError("nothing to show: give at least one reduced model and one picture")
    return draw([look(shown, picture) for picture in pictures], _names(pictures), blocks)


def draw(seen: Sequence[Sequence[Seen]], names: Sequence[str], blocks: Sequence[int] | None = None) -> Figure:
    """The figure of pictures that models have seen: for each picture, by name, what each model made of it."""
    require("plot", "a figure")
    from matplotlib import rc_context

    every = [one for row in seen for one in row]
    check_rows(len(every))
    depth = min(len(one.fates.codes) for one in every)
    blocks = shown_blocks(every) if blocks is None else check_blocks(blocks, depth)
    with rc_context(STYLE):
        drawn, places, key = _laid_out(seen, len(blocks))
        for (place, rows), name, row in zip(places, names, seen, strict=True):
            _photograph(place, name, row)
            for axes, one in zip(rows, row, strict=True):
                _row(axes, one, blocks, one.dense if _several_dense(row) else None)
        _key(key, every)
    return drawn


def save_figure(path: str | Path, drawn: Figure) -> Path:
    """Write the figure at once or not at all, by the ending of the path: .png, .svg or .pdf. Raises ValueError where
    the file cannot be written."""
    from matplotlib import rc_context

    kind = Path(path).suffix[1:].lower()

    def save(beside: str) -> None:
        with rc_context(STYLE), warnings.catch_warnings():
            warnings.filterwarnings("ignore", "Glyph")  # in a file's name: a box stands for it
            drawn.savefig(beside, format=kind, dpi=150, metadata=NO_DATE[kind])

    return write_whole(path, save)


def shown_blocks(seen: Sequence[Seen]) -> list[int]:
    """The blocks that a figure shows: where methods that act at few places do so; for others, which act in most
    blocks, the last, and where there are none but them every fourth part of the model.

    Example:
        >>> evit, tome = look([vitrim.reduce(model, name) for name in ("evit", "tome")], "photos/cat/0.png")
        >>> shown_blocks([evit]), shown_blocks([evit, tome])
        ([1, 2, 3], [0, 1, 2, 3])
    """
    changes = [one.fates.changes for one in seen]
    depth = max(len(one.fates.codes) for one in seen)
    in_stages = {block for found in changes if len(found) <= FEW for block in found}
    evenly = {depth * part // FEW for part in range(1, FEW)}
    chosen = sorted((in_stages or evenly) | ({depth - 1} if max(map(len, changes)) > FEW or not in_stages else set()))
    thinned = np.linspace(0, len(chosen) - 1, min(MOST, len(chosen))).round().astype(int)
    return [chosen[place] for place in thinned]


def check_rows(rows: int) -> None:
    """Raise ValueError where a figure of so many rows, one for each model on each picture, would be too large."""
    if rows > MOST_ROWS:
        raise ValueError(f"a figure of {rows} rows is too large: give at most {MOST_ROWS} pictures times models")


def check_blocks(blocks: Sequence[int], depth: int) -> list[int]:
    """The blocks, in order, each once. Raises ValueError for one that a model of so many blocks does not have."""
    if not blocks or min(blocks) < 0 or max(blocks) >= depth:
        raise OptionError({"blocks": tuple(blocks)}, f": the models have blocks 0 to {depth - 1}, give some of these")
    return sorted(set(blocks))


def _names(pictures: Sequence[Picture]) -> list[str]:
    return [short_name(picture) if isinstance(picture, (str, Path)) else "" for picture in pictures]


def short_name(file: str | Path) -> str:
    """A file's name as a figure can show it."""
    return shortened(Path(file).name, 60)


def _several_dense(row: Sequence[Seen]) -> bool:
    """Whether the models of a row are not reductions of one dense model."""
    return len({one.dense for one in row}) > 1


def _laid_out(seen: Sequence[Sequence[Seen]], stages: int) -> tuple[Any, list[tuple[Axes, list[list[Axes]]]], Axes]:
    """The empty figure; for each picture the place of the photograph and, for each model, those of its text, its
    blocks and its heat map; the place of the key."""
    rows = sum(map(len, seen))
    widths = [TILE, TEXT, *[TILE] * (stages + 1)]
    drawn = _notebook_figure()(figsize=(sum(widths) + 0.3, rows * (TILE + LINES) + KEY), layout="constrained")
    drawn.get_layout_engine().set(w_pad=0.02, h_pad=0.02, wspace=0.02, hspace=0.0)
    heights = [*[TILE + LINES] * rows, KEY]
    grid = drawn.add_gridspec(rows + 1, len(widths), width_ratios=widths, height_ratios=heights)
    places, start = [], 0
    for row in seen:
        end = start + len(row)
        tiles = [[drawn.add_subplot(grid[i, j]) for j in range(1, len(widths))] for i in range(start, end)]
        places.append((drawn.add_subplot(grid[start:end, 0]), tiles))
        start = end
    return drawn, places, drawn.add_subplot(grid[rows, :])


def _notebook_figure() -> Any:
    """matplotlib's class of figures; one of it shows itself in a notebook, whether pyplot is imported or not."""
    from matplotlib.figure import Figure

    class NotebookFigure(Figure):
        def _repr_png_(self) -> bytes:
            with io.BytesIO() as file:
                self.savefig(file, format="png", dpi=100)
                return file.getvalue()

    return NotebookFigure


def _photograph(axes: Axes, name: str, row: Sequence[Seen]) -> None:
    said = [] if row[0].dense is None or _several_dense(row) else _said("dense says", str(row[0].dense))
    axes.imshow(enlarged(row[0].pixels))
    axes.set_anchor("N")
    axes.set_title("\n".join([*textwrap.wrap(name, WIDTH), *said]), fontsize=SMALL, loc="left", pad=2)
    axes.axis("off")


def _row(places: Sequence[Axes], seen: Seen, blocks: Sequence[int], dense: Any) -> None:
    text, *tiles, heat = places
    words = [*_wrapped(seen.title, WIDTH), f"{100 * seen.share:.0f} % of the MACs"]
    words += _wrapped(seen.said, WIDTH) if seen.reduced is None else _said("says", str(seen.reduced))
    words += [] if dense is None else _said("dense says", str(dense))
    text.text(0.0, 0.98, "\n".join(words), va="top", linespacing=1.5, transform=text.transAxes)
    text.axis("off")
    for axes, block in zip(tiles, blocks, strict=True):
        groups, ringed = seen.fates.groups[block], seen.fates.ringed[block]
        _tile(axes, draw_groups(seen.pixels, groups, ringed), f"block {block}", seen.fates.caption(block))
    depth = len(seen.fates.codes)
    layer = heat_layer(seen.pixels, seen.fates.work, depth)
    _tile(heat, laid_over(enlarged(seen.pixels), layer), "blocks taken part in", _spread_of(seen.fates.work))


def _said(who: str, answer: str) -> list[str]:
    """An answer in lines: on one with who says it, where there is room, else in lines of its own."""
    whole = f"{who} {answer}"
    return [whole] if len(whole) <= WIDTH else [who, *_wrapped(answer, WIDTH)]


def _wrapped(text: str, width: int) -> list[str]:
    """Lines of at most so many characters, none of which ends between a number and what it counts.

    Example:
        >>> _wrapped("gas pump 51 %", 11), _wrapped("61 kept (36 re-selected), 135 idle", 30)
        (['gas', 'pump 51 %'], ['61 kept (36 re-selected),', '135 idle'])
    """
    tied = re.sub(r" (?=\d+ %)|(?<=\d) (?=[\w%])", "\u00a0", text)
    return [line.replace("\u00a0", " ") for line in textwrap.wrap(tied, width, break_on_hyphens=False)]


def _spread_of(work: np.ndarray) -> str:
    return f"{work.min():.3g} to {work.max():.3g}, mean {work.mean():.1f}"


def _tile(axes: Axes, pixels: np.ndarray, title: str, caption: str) -> None:
    axes.imshow(pixels)
    axes.set_title(title, fontsize=SMALL, pad=2)
    axes.set_xlabel("\n".join(_wrapped(caption, 30)), fontsize=SMALL - 1, labelpad=2)
    axes.set_xticks([])
    axes.set_yticks([])
    axes.spines[:].set_visible(False)


def _key(axes: Axes, seen: Sequence[Seen]) -> None:
    """What the colours mean; of signs that occur nowhere nothing is said."""
    from matplotlib.cm import ScalarMappable
    from matplotlib.colors import LinearSegmentedColormap, Normalize
    from matplotlib.lines import Line2D

    def sign(colour: Any, words: str, **more: Any) -> Line2D:
        return Line2D([], [], linestyle="none", markersize=8, color=np.array(colour) / 255, label=words, **more)

    rests = [word for word, _ in groupby(sorted({r for one in seen for r in one.fates.rests_found}))]
    signs = [sign(DROPPED_COLOUR, f"faded: {' or '.join(rests)}", marker="s")] if rests else []
    if any((one.fates.codes == 2).any() for one in seen):
        signs.append(sign(group_colours(1)[0], "one tint and border: patches that share a token", marker="s"))
    if any(one.fates.ringed.any() for one in seen):
        signs.append(sign(RING_COLOUR, "ringed: re-selected", marker="o", fillstyle="none", markeredgewidth=2))
    axes.axis("off")
    axes.legend(handles=signs, loc="lower left", ncols=3, frameon=False, fontsize=SMALL)
    scale = LinearSegmentedColormap.from_list("heat", HEAT_SCALE / 255)
    bar = ScalarMappable(Normalize(0, max(len(one.fates.codes) for one in seen)), scale)
    place = axes.inset_axes((0.8, 0.25, 0.2, 0.16))
    axes.figure.colorbar(bar, cax=place, orientation="horizontal").set_label("blocks a patch took part in", size=SMALL)
    place.tick_params(labelsize=SMALL - 1)
