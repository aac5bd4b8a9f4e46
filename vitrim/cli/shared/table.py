"""Tables on the terminal: plain columns, numbers to the right, as wide as they need to be where nobody folds them."""

from __future__ import annotations

import sys
from collections.abc import Iterable, Sequence

from rich import box
from rich.console import Console
from rich.table import Table

from ...common.files import STDOUT
from ...common.text import visible

WIDE = 200  # columns assumed for a file or a pipe, which fold nothing


class _Console(Console):
    """Leaves a closed pipe to `main`, which knows the exit code; rich alone would exit by itself."""

    def on_broken_pipe(self) -> None:
        raise BrokenPipeError


class Printer:
    """Where a command prints what it found: standard output, or standard error when that is taken by `--json -`."""

    def __init__(self, json_target: str | None):
        stream = sys.stderr if json_target == STDOUT else sys.stdout
        self._console = _Console(file=stream, highlight=False, markup=False, emoji=False, soft_wrap=False)
        if not self._console.is_terminal:
            self._console.width = WIDE

    def line(self, text: str = "") -> None:
        """One line, not folded; nothing in it, such as a file's name, steers the terminal."""
        self._console.print(visible(text), soft_wrap=True)

    def table(self, columns: Sequence[str], rows: Iterable[Sequence[str]], left: int = 1) -> None:
        """A table whose first `left` columns are text and whose others are numbers."""
        table = Table(box=box.SIMPLE_HEAD, padding=(0, 1), pad_edge=False, show_edge=False)
        for number, column in enumerate(columns):
            table.add_column(visible(column), justify="left" if number < left else "right", no_wrap=number >= left)
        for row in rows:
            table.add_row(*map(visible, row))
        self._console.print(table)


def say(text: str) -> None:
    """A remark on standard error while a command works."""
    print(f"vitrim: {visible(' '.join(text.split()))}", file=sys.stderr)


def percent(value: float | None, digits: int = 1) -> str:
    """A figure that is in percent already; a dash for none."""
    return "-" if value is None else f"{value:.{digits}f}"


def interval(bounds: Sequence[float] | None) -> str:
    """A 95 % interval in percent."""
    return "-" if bounds is None else f"{bounds[0]:.1f} to {bounds[1]:.1f}"


def signed(value: float | None, digits: int = 1) -> str:
    """A change, with its sign."""
    return "-" if value is None else f"{value:+.{digits}f}"


def tokens_left(patches: int, tokens: Sequence[int]) -> str:
    """Patch tokens after each place where their number changes: `138 97 68`; of many, the first and the last."""
    after = [n for n, before in zip(tokens, [patches, *tokens], strict=False) if n != before] or [patches]
    return " ".join(map(str, after)) if len(after) <= 4 else f"{after[0]} ... {after[-1]}"
