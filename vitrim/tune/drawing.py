"""A picture of a search: the front, and how many tokens are left after each block."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from ..common.extras import require
from ..common.files import write_whole
from .row import Row

Tables = Mapping[str, Mapping[str, Any]] | None


def draw(path: str | Path, title: str, rows: Sequence[Row], tables: Tables = None) -> Path:
    """The front (distance to the dense model against cost) beside the tokens over depth, a line for each plan; of a
    search for milliseconds also its tables, by stack.

    Raises ValueError where the file cannot be written.
    """
    require("plot", "a picture of a search")
    return write_whole(
        path, lambda there: _figure(title, rows, tables).savefig(there, format=Path(path).suffix[1:].lower())
    )


def _figure(title: str, rows: Sequence[Row], tables: Tables) -> Any:
    from matplotlib.figure import Figure

    panels = 3 if tables else 2
    figure = Figure(figsize=(4.5 * panels, 4), layout="constrained")
    front, depth, *stairs = figure.subplots(1, panels)
    by = "milliseconds" if tables else "MACs"
    for name in dict.fromkeys(row.plan.names for row in rows):
        mine = [row for row in rows if row.plan.names == name]
        front.plot([_cost(row) for row in mine], [row.distance for row in mine], "o-", label=f"{name}, searched")
        flat = [row for row in mine if row.flat is not None]
        if flat:
            front.plot(
                [_cost(row, "flat_") for row in flat], [row.flat["distance"] for row in flat if row.flat], "o--",
                alpha=0.6, label=f"{name}, its own plan",
            )  # fmt: skip
        for row in mine:
            depth.plot(range(len(row.tokens)), row.tokens, drawstyle="steps-post", label=f"{name} {row.plan.budget:g}")
    front.set(
        xlabel=f"share of the dense {by}",
        ylabel="distance to dense (as searched)",
        title=title,
        yscale="log",
    )
    depth.set(xlabel="block", ylabel="patch tokens after it", title="tokens over depth")
    for axes in stairs:
        _stairs(axes, tables or {})
    for axes in (front, depth, *stairs):
        axes.legend(frameon=False, fontsize=8)
    return figure


def _cost(row: Row, which: str = "") -> float:
    """As it was measured, for a search of milliseconds; the even plan of a search of MACs costs as many."""
    return row.plan.share if row.latency is None else row.latency[f"{which}measured"]


def _stairs(axes: Any, tables: Mapping[str, Mapping[str, Any]]) -> None:
    """Milliseconds of each piece by tokens, as measured."""
    for stack, table in tables.items():
        for name, curve in table["curves"].items():
            label = name if len(tables) == 1 else f"{stack}: {name}"
            axes.plot(curve["tokens"], curve["ms"], ".-", label=label, linewidth=1)
    axes.set(xlabel="patch tokens", ylabel="ms of a batch", title="pieces, measured", ylim=(0, None))
