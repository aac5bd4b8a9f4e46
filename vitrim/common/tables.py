"""Tables as plain text that fits: columns are dropped by priority, the first one never, and a line says which.

ASCII alone, no colours: the same text is right in a terminal, in a file, in a notebook and under LC_ALL=C.
"""

from __future__ import annotations

import textwrap
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from .text import visible

GAP = "  "
READABLE, NARROW = 40, 12  # to fold text so far is better than to drop a column; further than that, never


@dataclass(frozen=True)
class Column:
    """What a column is called, and what becomes of it where there is no room.

    drop:  columns with the largest number go first; 0 stays
    text:  to the left, and folded between words if need be; numbers are to the right and whole
    whole: its title is not folded either
    """

    title: str
    drop: int = 0
    text: bool = False
    whole: bool = False


@dataclass(frozen=True)
class Table:
    """Columns and rows of text.

    Example:
        >>> table = Table([Column("method", text=True), Column("GMACs"), Column("images/s", drop=1)],
        ...               [["dense", "4.599", "35.1"], ["evit keep=0.7", "3.030", "52.7"]])
        >>> print(table.fit(24))
        method         GMACs
        --------------------
        dense          4.599
        evit keep=0.7  3.030
        <BLANKLINE>
        not shown here: images/s
        (--wide shows it)
    """

    columns: Sequence[Column]
    rows: Sequence[Sequence[str]]

    def __str__(self) -> str:
        return self.fit(None)

    def fit(self, width: int | None, way_out: str = "--wide") -> str:
        """The table in lines of at most `width` characters; None: as wide as it needs to be.

        way_out: what the reader can do to see the columns that are dropped
        """
        shown = self._shown(width)
        widths = self._folded([self._width(i) for i in shown], shown, width)
        lines = self._row([self.columns[i].title for i in shown], shown, widths, bottom=True)
        lines.append("-" * (sum(widths) + len(GAP) * (len(widths) - 1)))
        for row in self.rows:
            lines += self._row([row[i] for i in shown], shown, widths)
        gone = [column.title for i, column in enumerate(self.columns) if i not in shown]
        if gone:
            said = f"not shown here: {', '.join(gone)} ({way_out} shows {'it' if len(gone) == 1 else 'them'})"
            lines += ["", *folded(said, width)]
        return "\n".join(lines)

    def titles(self, width: int | None) -> list[str]:
        """The titles of the columns that fit."""
        return [self.columns[i].title for i in self._shown(width)]

    def _shown(self, width: int | None) -> list[int]:
        """The columns that fit, in order."""
        shown = list(range(len(self.columns)))
        while width is not None and self._needed(shown) > width:
            droppable = [i for i in shown[1:] if self.columns[i].drop]
            if not droppable:
                break
            shown.remove(max(droppable, key=lambda i: self.columns[i].drop))
        return shown

    def _needed(self, shown: Sequence[int]) -> int:
        """What the columns take with the first one and all numbers whole, and text folded as far as it reads well."""
        first, *others = shown
        widths = [min(self._least(i), READABLE if self.columns[i].text else self._least(i)) for i in others]
        return self._least(first) + sum(widths) + len(GAP) * len(others)

    def _width(self, column: int) -> int:
        """Of a column with nothing folded."""
        return max(map(len, [visible(self.columns[column].title), *self._cells(column)]))

    def _least(self, column: int) -> int:
        """Of a column whose cells are whole and whose title is folded, if it may be."""
        if self.columns[column].whole:
            return self._width(column)
        return max(_longest_word(self.columns[column].title), *map(len, self._cells(column)), 0)

    def _floor(self, column: int) -> int:
        """Of a column with titles folded, and text too; numbers are never."""
        least = self._least(column)
        if not self.columns[column].text:
            return least
        return min(least, max(NARROW, *map(_longest_word, [self.columns[column].title, *self._cells(column)])))

    def _cells(self, column: int) -> list[str]:
        return [visible(row[column]) for row in self.rows]

    def _folded(self, widths: list[int], shown: Sequence[int], width: int | None) -> list[int]:
        """Widths with as much folded as must be: titles first, then text between its words, the first column last."""
        if width is None:
            return widths
        spare = width - len(GAP) * (len(widths) - 1)
        titles, text = [self._least(i) for i in shown], [self._floor(i) for i in shown]
        for least in (titles, [titles[0], *text[1:]], text):
            while sum(widths) > spare and (wide := [n for n, w in enumerate(widths) if w > least[n]]):
                widths[max(wide, key=lambda n: widths[n])] -= 1
        return widths

    def _row(self, cells: Sequence[str], shown: Sequence[int], widths: Sequence[int], bottom: bool = False):
        """One row in as many lines as its tallest cell has; bottom: shorter cells stand on its last line."""
        folds = [folded(visible(cell), width) for cell, width in zip(cells, widths, strict=True)]
        height = max(map(len, folds))
        blanks = [[""] * (height - len(fold)) for fold in folds]
        columns = [blank + fold if bottom else fold + blank for fold, blank in zip(folds, blanks, strict=True)]
        texts = [self.columns[i].text for i in shown]
        return [GAP.join(map(_aligned, line, widths, texts)).rstrip() for line in zip(*columns, strict=True)]


def _aligned(cell: str, width: int, text: bool) -> str:
    return cell.ljust(width) if text else cell.rjust(width)


def _longest_word(text: str) -> int:
    return max(map(len, visible(text).split()), default=0)


def folded(text: str, width: int | None, indent: str = "") -> list[str]:
    """Text in lines of at most `width` characters, folded between words; what has no spaces, such as a path, is whole.

    indent: before every line but the first

    Example:
        >>> folded("saved /tmp/a/long/name", 12)
        ['saved', '/tmp/a/long/name']
    """
    if width is None or len(text) <= width:
        return [text]
    options: Any = {"break_long_words": False, "break_on_hyphens": False, "subsequent_indent": indent}
    return textwrap.wrap(text, width, **options)
