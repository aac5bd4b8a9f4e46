"""The accuracy-against-cost picture."""

from __future__ import annotations

import io
from collections.abc import Mapping, Sequence
from itertools import groupby, pairwise
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ...common.extras import require
from ...common.files import write_whole
from ...evaluate import EvaluationResult
from ...methods import METHODS
from ...view.styles import PLOT, styles_of
from .rows import Row, accuracy_of, interval_of

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

SAME_COST = 0.02  # of the dense cost
WIDEST = 30.0  # points that all methods of one cost take together


def draw(path: str | Path, title: str, rows: Sequence[Row]) -> Path:
    """Accuracy with 95 % whiskers against GMACs: one line for each method, the dense model as a star.

    `rows[0]` is the dense model. Raises ValueError where the file cannot be written.
    """
    return write_whole(path, lambda beside: _save(beside, Path(path).suffix[1:].lower(), title, rows, {}))


def svg(title: str, rows: Sequence[Row], names: Mapping[str, str] | None = None) -> str:
    """The same picture as the text of an SVG. names: what methods are called in it, by their own names"""
    text = io.StringIO()
    _save(text, "svg", title, rows, names or {})
    return text.getvalue()


def _save(target: str | io.StringIO, kind: str, title: str, rows: Sequence[Row], names: Mapping[str, str]) -> None:
    require("plot", "a picture")
    from matplotlib import rc_context
    from matplotlib.figure import Figure

    with rc_context(PLOT):
        figure = Figure(figsize=(7, 4.4), layout="constrained")
        axes = figure.add_subplot()
        _dense(axes, rows[0])
        groups = _by_method(rows[1:])
        styles, apart = styles_of([method for method, _ in groups], list(METHODS)), _apart(groups)
        for number, (method, group) in enumerate(groups):
            style = {**styles[method], "transform": _aside(figure, axes, (number - (len(groups) - 1) / 2) * apart)}
            _line(axes, names.get(method, method), group, style)
        _labels(axes, title, rows[0], _kind(rows[0].result, rows[1].result), bool(apart))
        # No date and no version: the same figures make the same file.
        figure.savefig(target, format=kind, dpi=160, metadata={"Date": None} if kind == "svg" else {"Software": None})


def _by_method(rows: Sequence[Any]) -> list[tuple[str, list[Row]]]:
    return [(name, list(group)) for name, group in groupby(rows, key=lambda row: row.plan.name)]


def _apart(groups: Sequence[tuple[str, list[Row]]]) -> float:
    """Points (1/72 inch) by which methods are drawn side by side: none where no two of them cost about the same, so
    that nobody's whiskers lie on another's."""
    costs = sorted((row.cost.share, method) for method, group in groups for row in group)
    close = any(b - a < SAME_COST and x != y for (a, x), (b, y) in pairwise(costs))
    return min(5.0, WIDEST / len(groups)) if close else 0.0


def _aside(figure: Figure, axes: Axes, points: float) -> Any:
    """Where data lie, so many points to the right."""
    from matplotlib.transforms import ScaledTranslation

    return axes.transData + ScaledTranslation(points / 72, 0, figure.dpi_scale_trans)


def _dense(axes: Axes, row: Row) -> None:
    level, _ = _point(row.result)
    axes.axhline(level, color="0.6", linewidth=1, linestyle=(0, (4, 3)), zorder=0)
    _whiskers(axes, [row], color="black", marker="*", markersize=12, linestyle="none", label="dense")


def _line(axes: Axes, method: str, rows: list[Row], style: dict[str, Any]) -> None:
    rows = sorted(rows, key=lambda row: row.cost.gmacs)
    _whiskers(axes, rows, markersize=5, linewidth=1.6, label=method, **style)


def _whiskers(axes: Axes, rows: list[Row], **style) -> None:
    x, points = [row.cost.gmacs for row in rows], [_point(row.result) for row in rows]
    y, bounds = [value for value, _ in points], [found for _, found in points]
    below, above = zip(*((a - low, high - a) for a, (low, high) in zip(y, bounds, strict=True)), strict=True)
    where = {key: style[key] for key in ("color", "transform") if key in style}
    axes.errorbar(x, y, yerr=(below, above), fmt="none", capsize=2.5, elinewidth=0.9, **where)
    axes.plot(x, y, **style)
    # What is drawn aside does not widen the axes by itself.
    axes.update_datalim([(place, bound) for place, pair in zip(x, bounds, strict=True) for bound in pair])
    axes.autoscale_view()


def _point(result: EvaluationResult) -> tuple[float, tuple[float, float]]:
    """Height and whiskers: accuracy; without labels likeness to the dense model in percent, of which it has all."""
    accuracy, bounds = accuracy_of(result), interval_of(result)
    if accuracy is not None and bounds is not None:
        return accuracy, bounds
    if result.agreement is not None:
        return result.agreement, result.agreement_interval or (result.agreement, result.agreement)
    cosine = 1.0 if result.cosine is None else result.cosine
    low, high = result.cosine_interval or (cosine, cosine)
    return 100 * cosine, (100 * low, 100 * high)


def _kind(dense: EvaluationResult, reduced: EvaluationResult) -> str:
    """What the points' height is."""
    if dense.top1 is not None:
        return "top-1 accuracy"
    if dense.knn is not None:
        return "nearest-neighbour accuracy"
    return "agreement with dense" if reduced.agreement is not None else "cosine with dense"


def _labels(axes: Axes, title: str, dense: Row, kind: str, aside: bool) -> None:
    axes.set_xlabel(f"GMACs for one image{' (methods of about the same cost are drawn side by side)' if aside else ''}")
    axes.set_ylabel(f"{kind} in %, 95 % intervals")
    axes.set_title(f"{title}, {dense.result.images:,} images", fontsize=11, loc="left")
    axes.grid(color="0.9", linewidth=0.8)
    axes.set_axisbelow(True)
    axes.legend(frameon=False, loc="lower right")
