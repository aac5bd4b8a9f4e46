"""Tables as Markdown."""

from __future__ import annotations

from collections.abc import Sequence


def markdown(titles: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """A table whose first column is text and whose others are numbers."""
    lines = [titles, ["---", *["---:"] * (len(titles) - 1)], *rows]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)


def interval(bounds: Sequence[float]) -> str:
    """Both ends of an interval."""
    return f"{bounds[0]:.1f} to {bounds[1]:.1f}"
