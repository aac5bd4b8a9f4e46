"""How plots look: the colours, markers and lines of the methods in them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

# Okabe and Ito's colours, told apart by colour-blind readers too. After the sixth method they start again, with other
# markers and broken lines.
COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9")
MARKERS = ("o", "s", "^", "D", "v", "P", "X", "p", "<", ">", "h")
LINES = ("solid", "dashed", "dotted", "dashdot")
PLOT: Any = {
    "font.size": 10,
    "svg.hashsalt": "vitrim",
    "svg.fonttype": "none",
    "axes.spines.top": False,
    "axes.spines.right": False,
}


def style_of(number: int) -> dict[str, str]:
    """Colour, marker and line of the `number`-th method.

    Example:
        >>> style_of(6)
        {'color': '#0072B2', 'marker': 'X', 'linestyle': 'dashed'}
    """
    line = LINES[number // len(COLOURS) % len(LINES)]
    return {"color": COLOURS[number % len(COLOURS)], "marker": MARKERS[number % len(MARKERS)], "linestyle": line}


def styles_of(names: Sequence[str], known: Sequence[str]) -> dict[str, dict[str, str]]:
    """Colour, marker and line of every method of a picture. A method looks the same in every picture, as long as no
    other one of the picture has its colour: then it takes the next that is free.

    known: names in the order that decides on their looks; any others come behind them

    Example:
        >>> styles_of(["tome"], ["evit", "tome"])["tome"] == styles_of(["evit", "tome"], ["evit", "tome"])["tome"]
        True
    """
    order = [*known, *(name for name in names if name not in known)]
    found: dict[str, int] = {}
    for name in sorted(dict.fromkeys(names), key=order.index):
        number, colours = order.index(name), {taken % len(COLOURS) for taken in found.values()}
        free = (n for n in range(number, number + len(COLOURS)) if n % len(COLOURS) not in colours)
        found[name] = next(free, number)
    return {name: style_of(found[name]) for name in names}
