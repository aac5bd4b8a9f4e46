"""A picture of a search: the front, and how many tokens are left after each block."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from ..common.extras import require
from ..common.files import write_whole
from .search import Row


def draw(path: str | Path, title: str, rows: Sequence[Row]) -> Path:
    """The front (distance to the dense model against cost) beside the tokens over depth, a line for each plan.

    Raises ValueError where the file cannot be written.
    """
    require("plot", "a picture of a search")
    return write_whole(path, lambda there: _figure(title, rows).savefig(there, format=Path(path).suffix[1:].lower()))


def _figure(title: str, rows: Sequence[Row]) -> Any:
    from matplotlib.figure import Figure

    figure = Figure(figsize=(9, 4), layout="constrained")
    front, depth = figure.subplots(1, 2)
    for name in dict.fromkeys(row.plan.names for row in rows):
        mine = [row for row in rows if row.plan.names == name]
        front.plot([row.plan.share for row in mine], [row.distance for row in mine], "o-", label=f"{name}, searched")
        flat = [row for row in mine if row.flat is not None]
        front.plot(
            [row.plan.share for row in flat], [row.flat["distance"] for row in flat if row.flat], "o--", alpha=0.6,
            label=f"{name}, its own plan",
        )  # fmt: skip
        for row in mine:
            depth.plot(range(len(row.tokens)), row.tokens, drawstyle="steps-post", label=f"{name} {row.plan.budget:g}")
    front.set(xlabel="share of the dense MACs", ylabel="mean distance to the dense model", title=title, yscale="log")
    depth.set(xlabel="block", ylabel="patch tokens after it", title="tokens over depth")
    for axes in (front, depth):
        axes.legend(frameon=False, fontsize=8)
    return figure
