"""Progress with the time left, on standard error: on a terminal a bar, from the third second on; elsewhere, such as in
a file or a job's log, a line a minute.

Example: nothing is shown of what is done within two seconds.
    >>> with progress("timing", total=3) as report:
    ...     for number in range(3):
    ...         report(number + 1)
"""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Generator, Iterable, Sequence
from contextlib import contextmanager
from itertools import accumulate
from threading import Timer
from time import monotonic
from typing import Any, TypeVar

from rich.console import Console, RenderableType
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    ProgressColumn,
    Task,
    TaskID,
    TextColumn,
    TimeRemainingColumn,
)
from rich.table import Column
from rich.text import Text

from .text import counted, visible

PATIENCE = 2.0  # seconds before a bar is shown
INTERVAL = 60.0  # seconds between lines where there is no terminal
ROOM = 46  # characters that bar, counts and time take
Report = Callable[..., None]  # called with what is done, words to show beside it, and the total, if it is known now
Item = TypeVar("Item")

_shown: list[Progress] = []  # a terminal has one display: what begins inside of something else is a line more in it
_hidden: list[bool] = []


@contextmanager
def progress(what: str, total: int | None = None, done: int = 0) -> Generator[Report]:
    """Show how far something is; call what this gives as `report(done, note, total)`.

    note:  words to show beside it, of which the first are shown where there is no room for all
    total: of what `done` counts; None: unknown, only the time that has passed is shown
    done:  where it begins
    """
    if any(_hidden) or not _on_terminal():
        yield _Lines(what, total, done)
        return
    display, outermost = (_shown[-1], False) if _shown else (_display(), True)
    task = display.add_task(what, total=total, completed=done, note="", visible=False)
    timer = Timer(PATIENCE, _show, (display, task))
    timer.daemon = True
    timer.start()
    _shown.append(display)
    try:
        room = display.console.width - len(what) - ROOM
        yield lambda done, note=(), total=None: display.update(
            task, completed=done, note=_fitting(note, room), total=total
        )
    finally:
        _shown.pop()
        timer.cancel()
        timer.join()  # or it might start the display after its end
        display.stop() if outermost else display.remove_task(task)


def counted_off(items: Iterable[Item], what: str, total: int | None = None) -> Generator[Item]:
    """The items, with progress over them.

    Example:
        >>> list(counted_off("ab", "preparing"))
        ['a', 'b']
    """
    known: Any = items
    total = len(known) if total is None and hasattr(known, "__len__") else total
    with progress(what, total) as report:
        for number, item in enumerate(items, start=1):
            yield item
            report(number)


@contextmanager
def hidden(wanted: bool = True) -> Generator[None]:
    """No progress is shown in here, where that is wanted."""
    _hidden.append(wanted)
    try:
        yield
    finally:
        _hidden.pop()


@contextmanager
def cleared() -> Generator[None]:
    """The bars are gone in here, and come back: what is printed meanwhile does not run into them."""
    running = [display for display in _shown[-1:] if display.live.is_started]
    for display in running:
        display.stop()
    try:
        yield
    finally:
        for display in running:
            display.start()


def tell(text: str) -> None:
    """A line that stays, above the progress of what goes on; nothing where none would be shown."""
    if _shown and not any(_hidden):
        _shown[-1].console.print(text, highlight=False, markup=False)


def remark(text: str) -> None:
    """A line on standard error of something that the user should know and need not mend; from one process of a run,
    and not where progress is hidden."""
    if not any(_hidden) and os.environ.get("RANK", "0") == "0" and sys.stderr:
        print(f"vitrim: {visible(text)}", file=sys.stderr)


class _Lines:
    """A report that says how far something is in a line, once a minute: `vitrim: images: 1,200 of 3,925, 4 minutes
    left`."""

    def __init__(self, what: str, total: int | None, done: int):
        self.what, self.total, self.begun_at = what, total, done
        self.begun = self.said = monotonic()

    def __call__(self, done: int, note: str | Sequence[str] = (), total: int | None = None) -> None:
        self.total, now = self.total if total is None else total, monotonic()
        if now - self.said < INTERVAL or done <= self.begun_at:
            return
        self.said = now
        left = "" if self.total is None else f" of {self.total:,}{self._left(done, now)}"
        remark(f"{self.what}: {done:,}{left}")

    def _left(self, done: int, now: float) -> str:
        seconds = (now - self.begun) / (done - self.begun_at) * ((self.total or done) - done)
        return f", {counted(max(1, round(seconds / 60)), 'minute')} left" if seconds > 0 else ""


def _on_terminal() -> bool:
    """Whether somebody watches; colours that are forced into a pipe are no sign of it.

    Of the processes of a training run (torchrun and Accelerate number them in RANK) only the first has what to show.
    """
    if os.environ.get("RANK", "0") != "0":
        return False
    return bool(sys.stderr and sys.stderr.isatty()) and Console(stderr=True).is_terminal


def _show(display: Progress, task: TaskID) -> None:
    display.update(task, visible=True)
    display.start()


def _fitting(note: str | Sequence[str], room: int) -> str:
    """The first words of a note, as many as there is room for."""
    shown = list(accumulate([note] if isinstance(note, str) else note, "{}  {}".format))
    return max((text for text in shown if len(text) <= room), key=len, default="")


class _Counts(MofNCompleteColumn):
    """`12/80`; nothing where nothing is counted."""

    def render(self, task: Task) -> Text:
        return Text("") if task.total is None else super().render(task)


class _Bar(ProgressColumn):
    """A bar; nothing where nothing is counted, whose moving block means little, and less without colours."""

    bar = BarColumn(bar_width=16)

    def render(self, task: Task) -> RenderableType:
        return Text("") if task.total is None else self.bar.render(task)


class _Time(TimeRemainingColumn):
    """`0:01:20 left`; where nothing is counted the time that has passed."""

    def render(self, task: Task) -> Text:
        if task.total is None:
            return Text(f"{int(task.elapsed or 0)} s")
        return super().render(task).append(" left")


def _display() -> Progress:
    return Progress(
        TextColumn("{task.description}"),
        _Bar(),
        _Counts(),
        _Time(),
        TextColumn("{task.fields[note]}", markup=False, table_column=Column(no_wrap=True)),
        console=Console(stderr=True),
        refresh_per_second=4,  # models may be timed meanwhile
        transient=True,
    )
