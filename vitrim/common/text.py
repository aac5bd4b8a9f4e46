"""Words for messages."""

from __future__ import annotations


def few(items: list, shown: int = 3) -> str:
    """The first items as text, with a count of the rest."""
    text = ", ".join(str(item) for item in items[:shown])
    return text if len(items) <= shown else f"{text} and {len(items) - shown} more"


def first_line(error: BaseException) -> str:
    """The first line of an error's message, or its type where there is none."""
    lines = str(error).strip().splitlines()
    return lines[0] if lines else type(error).__name__
