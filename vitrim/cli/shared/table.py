"""What commands print: lines and tables that fit the terminal, and figures in words."""

from __future__ import annotations

import sys
from collections.abc import Iterable, Sequence

from ...common.files import STDOUT
from ...common.progress import cleared
from ...common.tables import Column, Table, folded
from ...common.terminal import terminal_width
from ...common.text import visible
from ...runtime.model_cost import tokens_left

__all__ = ["Column", "Printer", "interval", "percent", "say", "signed", "tokens_left"]


class Printer:
    """Where a command prints what it found: standard output, or standard error when that is taken by `--json -`.

    wide: tables have all their columns, whatever the terminal's width

    Example:
        >>> shown = Printer(None).table([Column("model", text=True), Column("GMACs")], [["dense", "4.599"]])
        model  GMACs
        ------------
        dense  4.599
    """

    def __init__(self, json_target: str | None, wide: bool = False):
        self._stream = sys.stderr if json_target == STDOUT else sys.stdout
        self._width = terminal_width(self._stream)
        self._wide = wide

    def line(self, text: str = "", indent: str = "") -> None:
        """A sentence, folded between words where it is a terminal; nothing in it, such as a file's name, steers that.

        indent: before what is folded
        """
        self._print("\n".join(folded(visible(text), self._width, indent)))

    def table(self, columns: Sequence[Column], rows: Iterable[Sequence[str]]) -> list[str]:
        """A table of the columns that fit; returns their titles."""
        return self.show(Table(columns, list(rows)))

    def show(self, table: Table) -> list[str]:
        """A table that is there already; returns the titles of the columns that it shows."""
        width = None if self._wide else self._width
        self._print(table.fit(width))
        return table.titles(width)

    def _print(self, text: str) -> None:
        with cleared():
            print(text, file=self._stream, flush=True)


def say(text: str) -> None:
    """A remark on standard error while a command works."""
    print(f"vitrim: {visible(' '.join(text.split()))}", file=sys.stderr)


def percent(value: float | None, digits: int = 1) -> str:
    """A figure that is in percent already; a dash for none."""
    return "-" if value is None else f"{value:.{digits}f}"


def interval(bounds: Sequence[float] | None, digits: int = 1) -> str:
    """A 95 % interval, of figures in percent or with more digits."""
    return "-" if bounds is None else f"{bounds[0]:.{digits}f} to {bounds[1]:.{digits}f}"


def signed(value: float | None, digits: int = 1) -> str:
    """A change, with its sign."""
    return "-" if value is None else f"{value:+.{digits}f}"
