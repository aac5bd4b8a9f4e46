"""How plots look: the colours, markers and lines of the methods in them."""

from __future__ import annotations

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
