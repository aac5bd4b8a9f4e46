"""The picture of `vitrim benchmark`: time against MACs, and what the MACs promise."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import groupby
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ...common.extras import require
from ...common.files import write_whole
from ...deploy.benchmark import Timed
from ...deploy.instead import KINDS
from ...methods import METHODS
from ...view.styles import PLOT, styles_of

if TYPE_CHECKING:
    from matplotlib.axes import Axes

WIDE = 3  # panels beside one another
PANEL = (5.2, 3.9)  # inches
# No date and no version: the same figures make the same file.
NO_DATE = {"svg": {"Date": None}, "pdf": {"CreationDate": None, "Producer": None}, "png": {"Software": None}}
Panel = tuple[str, Sequence[Timed]]


def draw_speeds(path: str | Path, panels: Sequence[Panel]) -> Path:
    """One panel for each (title, rows), of which the first row is the dense model: milliseconds of a batch against
    GMACs of an image, with whiskers from the tenth to the ninety-fifth percentile; the line of what the MACs promise;
    the roofline.

    Raises ValueError where the file cannot be written.
    """
    kind = Path(path).suffix[1:].lower()
    return write_whole(path, lambda beside: _save(beside, kind, panels))


def _save(target: str, kind: str, panels: Sequence[Panel]) -> None:
    require("plot", "a picture")
    from matplotlib import rc_context
    from matplotlib.figure import Figure

    columns = min(WIDE, len(panels))
    rows = -(-len(panels) // columns)
    with rc_context(PLOT):
        figure = Figure(figsize=(PANEL[0] * columns, PANEL[1] * rows), layout="constrained")
        every = figure.subplots(rows, columns, squeeze=False).flatten().tolist()
        for axes, (title, timed) in zip(every, panels, strict=False):
            _panel(axes, title, timed)
        for axes in every[len(panels) :]:
            axes.remove()
        figure.savefig(target, format=kind, dpi=160, metadata=NO_DATE[kind])


def _panel(axes: Axes, title: str, rows: Sequence[Timed]) -> None:
    dense, *others = rows
    _promised(axes, dense, min(row.cost.gmacs for row in rows))
    _roofline(axes, rows)
    _points(axes, [dense], {"color": "black", "marker": "*", "markersize": 12, "linestyle": "none"}, "dense")
    methods = [row for row in others if not row.instead_of]
    groups = [(name, list(group)) for name, group in groupby(methods, key=lambda row: row.label.split()[0].rstrip(","))]
    styles = styles_of([name for name, _ in groups], list(METHODS))
    for name, group in groups:
        points = sorted(group, key=lambda row: row.cost.macs)
        _points(axes, points, {**styles[name], "markersize": 5}, _named(name, points[0], dense))
    _instead(axes, [row for row in others if row.instead_of])
    axes.set_xlabel("GMACs for one image")
    axes.set_ylabel("milliseconds for one batch")
    axes.set_title(title, fontsize=10, loc="left")
    axes.set_xlim(left=0)
    axes.set_ylim(bottom=0)
    axes.grid(color="0.9", linewidth=0.8)
    axes.set_axisbelow(True)
    axes.legend(frameon=False, fontsize=8, loc="upper left")


def _named(name: str, row: Timed, dense: Timed) -> str:
    """An exported file says what it runs in, where that is not what the title says."""
    return name if row.case == dense.case else f"{name}, in {row.case.runtime}"


def _promised(axes: Axes, dense: Timed, least: float) -> None:
    """Time in proportion to the MACs, from the dense model down."""
    x = (0.9 * least, dense.cost.gmacs)
    y = [dense.ms * value / dense.cost.gmacs for value in x]
    axes.plot(x, y, color="0.45", linewidth=1, linestyle=(0, (4, 3)), zorder=0, label="promised by MACs")


def _roofline(axes: Axes, rows: Sequence[Timed]) -> None:
    points = sorted((row.cost.gmacs, row.least_ms) for row in rows if row.cost.params == rows[0].cost.params)
    axes.plot(*zip(*points, strict=True), color="0.45", linewidth=1, linestyle=":", zorder=0, label="roofline")


def _instead(axes: Axes, rows: Sequence[Timed]) -> None:
    """What a user might do instead, as hollow points without lines."""
    for kind, marker in zip(KINDS, ("o", "s", "^"), strict=True):
        found = [row for row in rows if row.kind == kind]
        if found:
            style: Any = {"marker": marker, "linestyle": "none", "fillstyle": "none", "markersize": 7, "color": "0.2"}
            axes.plot([row.cost.gmacs for row in found], [row.ms for row in found], label=kind, **style)


def _points(axes: Axes, rows: Sequence[Timed], style: dict[str, Any], label: str) -> None:
    x, y = [row.cost.gmacs for row in rows], [row.ms for row in rows]
    spread = ([row.ms - row.p10 for row in rows], [row.p95 - row.ms for row in rows])
    axes.errorbar(x, y, yerr=spread, color=style["color"], fmt="none", capsize=2.5, elinewidth=0.9)
    axes.plot(x, y, linewidth=1.6, label=label, **style)
