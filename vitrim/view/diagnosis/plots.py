"""A diagnosis in plots, several methods as lines in one: as the papers draw them."""

from __future__ import annotations

import io
from collections.abc import Callable, Mapping
from itertools import groupby
from typing import TYPE_CHECKING, Any

import numpy as np

from ...common.extras import require
from ..styles import PLOT, style_of
from .diagnosing import DENSE, Diagnosis
from .tables import evenly

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

STYLE: Any = {**PLOT, "font.size": 9, "text.parse_math": False}
SIZE, PANEL = (7.0, 3.6), (3.0, 2.9)  # inches: of a plot, of one panel among several
CLASSES, STAGES, BINS = 20, 4, 24  # that a plot shows
WIDE = 3  # panels beside one another
BLACK: Any = {"color": "black", "marker": "*", "linestyle": "solid"}


def plots(found: Diagnosis) -> dict[str, Figure]:
    """The plots, by the name of the diagnostic; without those that have nothing to show.

    Raises ValueError where matplotlib is not installed.

    Example:
        >>> loader = vitrim.data.open_loader(vitrim.data.open_dataset("photos", model), workers=0)
        >>> drawn = plots(vitrim.view.diagnose(vitrim.reduce(model, "evit", keep=0.5), loader))
        >>> list(drawn)
        ['usage', 'similarity', 'diversity', 'sorted_attention', 'inattentive', 'classes']
    """
    require("plot", "a plot")
    from matplotlib import rc_context

    with rc_context(STYLE):
        drawn = {name: draw(found) for name, draw in DRAWN.items()}
    return {name: figure for name, figure in drawn.items() if figure is not None}


def as_svg(drawn: Figure) -> str:
    """The text of an SVG; the same figures make the same text."""
    from matplotlib import rc_context

    text = io.StringIO()
    with rc_context(STYLE):
        drawn.savefig(text, format="svg", metadata={"Date": None})
    return text.getvalue()


def styles_of(found: Diagnosis) -> dict[str, dict[str, Any]]:
    """How each model is drawn, the same in all plots: the dense one in black."""
    reduced = [name for name in found.models if name != DENSE]
    return {DENSE: BLACK, **{name: style_of(number) for number, name in enumerate(reduced)}}


def _known(found: Diagnosis, name: str) -> dict[str, Any]:
    """The answers of the models that have one."""
    answers = {model: getattr(each, name) for model, each in found.models.items()}
    return {model: answer for model, answer in answers.items() if answer is not None}


def _figure(panels: int = 1, size: tuple[float, float] = SIZE) -> tuple[Figure, list[Axes]]:
    from matplotlib.figure import Figure

    columns = min(panels, WIDE)
    rows = -(-panels // columns)
    drawn = Figure(figsize=(size[0] * columns, size[1] * rows), layout="constrained")
    every = [drawn.add_subplot(rows, columns, number + 1) for number in range(panels)]
    for axes in every:
        axes.grid(color="0.9", linewidth=0.8)
        axes.set_axisbelow(True)
    return drawn, every


def _named(axes: Axes, x: str, y: str, beside: bool = True) -> None:
    axes.set_xlabel(x)
    axes.set_ylabel(y)
    if beside:
        axes.legend(frameon=False, loc="center left", bbox_to_anchor=(1.01, 0.5), fontsize=8)


def _usage(found: Diagnosis) -> Figure | None:
    """ToFe Fig. 9 for models whose images keep numbers of their own; else the one number of each stage."""
    known, styles = _known(found, "usage"), styles_of(found)
    if not known:
        return None
    spread = {name: stages for name, stages in known.items() if any(stage.low != stage.high for stage in stages)}
    drawn, (axes, *others) = _figure(1 + len(spread), SIZE if not spread else (4.2, 3.2))
    depth = len(found.models[DENSE].similarity or ())
    for name, stages in known.items():
        steps = [*stages, stages[-1]]  # a stage lasts until the next begins, and the last one to the end
        blocks = [*(stage.block for stage in stages), max(depth, stages[-1].block + 1)]
        style: Any = {**styles[name], "drawstyle": "steps-post", "markevery": range(len(stages))}
        axes.plot(blocks, [stage.mean for stage in steps], label=name, markersize=4, **style)
        low, high = [stage.low for stage in steps], [stage.high for stage in steps]
        axes.fill_between(blocks, low, high, step="post", color=styles[name]["color"], alpha=0.15)
    _named(axes, "block", "patch tokens, fewest to most", beside=not spread)
    if spread:
        axes.legend(frameon=False, fontsize=7)
    for panel, (name, stages) in zip(others, spread.items(), strict=True):
        for number, stage in enumerate(stages[i] for i in evenly(0, len(stages) - 1, STAGES)):
            look: Any = {"color": style_of(number)["color"], "histtype": "stepfilled", "alpha": 0.5}
            bins = np.linspace(stage.low - 0.5, stage.high + 0.5, min(BINS, stage.high - stage.low + 1) + 1).tolist()
            images = list(stage.images.values())
            label = f"block {stage.block}, mean {stage.mean:.0f}"
            panel.hist(list(stage.images), bins, weights=images, label=label, **look)
        panel.set_title(name, fontsize=9, loc="left")
        panel.set_xlabel("patch tokens")
        panel.set_ylabel("images")
        panel.legend(frameon=False, fontsize=7)
    return drawn


def _similarity(found: Diagnosis) -> Figure:
    """IdleViT Fig. 5."""
    drawn, (axes,) = _figure()
    for name, style in styles_of(found).items():
        axes.plot(found.models[name].similarity or (), label=name, markersize=4, **style)
    _named(axes, "after block", "mean cosine of patch tokens")
    return drawn


def _diversity(found: Diagnosis) -> Figure | None:
    """BAT Fig. 4: the score, and beside it how the models do, against the cost; a line for each method."""
    known, styles = _known(found, "diversity"), styles_of(found)
    reduced = {name: answer for name, answer in known.items() if name != DENSE}
    if not reduced:
        return None
    judged, words = _judged(found)
    drawn, (left, right) = _figure(2, (4.2, 3.2))
    for methods, group in groupby(reduced, key=lambda name: found.models[name].methods):
        names = sorted(group, key=lambda name: found.models[name].share)
        cost = [100 * found.models[name].share for name in names]
        style: Any = {**styles[names[0]], "markersize": 5, "label": methods if len(names) > 1 else names[0]}
        left.plot(cost, [next(iter(reduced[name].values())) for name in names], **style)
        right.plot(cost, [judged[name] for name in names], **style)
    for score in dict.fromkeys(known[DENSE].values()):
        left.plot([100], [score], markersize=8, **BLACK)
    right.plot([100], [judged[DENSE]], markersize=8, label="dense", **BLACK)
    _named(left, "MACs, % of dense", "diversity after the last place", beside=False)
    _named(right, "MACs, % of dense", words)
    return drawn


def _judged(found: Diagnosis) -> tuple[dict[str, float], str]:
    """How each model does, and what that is."""
    results = {name: each.agreement for name, each in found.models.items()}
    if results[DENSE].top1 is not None:
        return {name: result.top1 or 0.0 for name, result in results.items()}, "top-1, %"
    if found.classes:
        alike = {name: 100.0 if name == DENSE else result.agreement or 0.0 for name, result in results.items()}
        return alike, "agreement with dense, %"
    alike = {name: 1.0 if name == DENSE else result.cosine or 0.0 for name, result in results.items()}
    return alike, "cosine with dense"


def _sorted_attention(found: Diagnosis) -> Figure | None:
    """IdleViT Fig. 4, on one logarithmic scale: how many times the even share 1/n a pair has."""
    known = _known(found, "sorted_attention")
    if not known:
        return None
    from matplotlib.colors import LogNorm

    drawn, panels = _figure(len(known), PANEL)
    for axes, (name, answer) in zip(panels, known.items(), strict=True):
        times = (answer.map * len(answer.map)).clamp(min=1e-3).numpy()
        shown = axes.imshow(times, norm=LogNorm(0.1, 10), cmap="RdBu_r", interpolation="nearest")
        axes.set_title(f"{name}\nblock {answer.block}, {len(answer.map)} tokens", fontsize=8, loc="left")
        axes.grid(visible=False)
        axes.set_xticks([])
        axes.set_yticks([])
    bar = drawn.colorbar(shown, ax=panels, shrink=0.8, ticks=[0.1, 0.3, 1, 3, 10])
    bar.ax.set_yticklabels(["0.1", "0.3", "1", "3", "10"])
    bar.set_label("attention, times an even share", size=8)
    return drawn


def _inattentive(found: Diagnosis) -> Figure | None:
    """EViT Fig. 6: a box for each block, the mean in orange; the mean over all patches as a dashed line."""
    known = {name: boxes for name, boxes in _known(found, "inattentive").items() if boxes}
    if not known:
        return None
    from matplotlib.ticker import NullFormatter

    drawn, panels = _figure(len(known), PANEL)
    for axes, (name, boxes) in zip(panels, known.items(), strict=True):
        keys = {"whislo": "low", "q1": "first", "med": "median", "q3": "third", "whishi": "high", "mean": "mean"}
        stats = [{key: getattr(box, value) for key, value in keys.items()} for box in boxes]
        axes.bxp(
            stats,
            positions=[box.block for box in boxes],
            showfliers=False,
            showmeans=True,
            meanline=True,
            meanprops={"color": "#E69F00", "linestyle": "solid", "linewidth": 1.4},
            medianprops={"color": "0.4", "linewidth": 0.8},
        )
        axes.plot([box.block for box in boxes], [box.every for box in boxes], "--", color="0.3", linewidth=1)
        axes.set_yscale("log")
        axes.yaxis.set_major_formatter("{x:g}")
        axes.yaxis.set_minor_formatter(NullFormatter())
        axes.set_title(name, fontsize=8, loc="left")
        axes.tick_params(labelsize=7)
        axes.set_xlabel("block", fontsize=8)
    panels[0].set_ylabel("class attention of a patch", fontsize=8)
    return drawn


def _classes(found: Diagnosis) -> Figure | None:
    """Agreement of the classes on which it is least."""
    if not found.classes:
        return None
    rows, styles = found.classes[:CLASSES], styles_of(found)
    drawn, (axes,) = _figure(1, (SIZE[0], 1.2 + 0.24 * len(rows)))
    places = np.arange(len(rows))
    names = list(rows[0].agreement)
    for number, name in enumerate(names):
        style: Any = {**styles[name], "linestyle": "none", "markersize": 4.5}
        below = 0.6 * ((number + 0.5) / len(names) - 0.5)  # side by side, where they are equal
        axes.plot([100 * row.agreement[name] for row in rows], places + below, label=name, **style)
    axes.set_yticks(places, [f"{row.name} ({row.images})" for row in rows], fontsize=8)
    axes.invert_yaxis()
    _named(axes, "agreement with dense, %", "")
    return drawn


DRAWN: Mapping[str, Callable[[Diagnosis], Figure | None]] = {
    "usage": _usage,
    "similarity": _similarity,
    "diversity": _diversity,
    "sorted_attention": _sorted_attention,
    "inattentive": _inattentive,
    "classes": _classes,
}
