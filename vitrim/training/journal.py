"""What a run says: a CSV row for every so many steps, trackers by option, a live display with the time left."""

from __future__ import annotations

import csv
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn


class Table:
    """A CSV file that grows by whole rows; columns are settled by the first row.

    Rows at or after `step` are dropped on opening, so that a resumed run does not say things twice.
    """

    def __init__(self, path: Path, step: int):
        self.path = path
        path.parent.mkdir(parents=True, exist_ok=True)
        rows = self._rows_before(step)
        self.columns = list(rows[0]) if rows else None
        path.unlink(missing_ok=True)
        for row in rows:
            self.add(row)

    def _rows_before(self, step: int) -> list[dict[str, Any]]:
        if not self.path.exists():
            return []
        with open(self.path, newline="") as file:
            return [row for row in csv.DictReader(file) if int(row["step"]) < step]

    def add(self, row: dict[str, Any]) -> None:
        """Append one row."""
        first = self.columns is None
        self.columns = self.columns or list(row)
        with open(self.path, "a", newline="") as file:
            writer = csv.DictWriter(file, self.columns, extrasaction="ignore")
            if first or file.tell() == 0:
                writer.writeheader()
            writer.writerow(row)


class Journal:
    """Writes `steps.csv` and `epochs.csv`, hands the same figures to Accelerate's trackers, and shows progress.

    Only the main process writes and shows. step, judged: steps done, and those of the epochs that have been judged
    """

    def __init__(self, folder: Path, accelerator, step: int, judged: int, steps: int, show: bool = True):
        self.accelerator, self.main = accelerator, accelerator.is_main_process
        done = {"steps": step, "epochs": judged}
        self.tables = {name: Table(folder / f"{name}.csv", at) for name, at in done.items()} if self.main else {}
        self.progress = _progress(enabled=self.main and show)
        self.task = self.progress.add_task("training", total=steps, completed=step, what="")
        self.progress.start()

    def step(self, row: dict[str, Any], write: bool) -> None:
        """One optimiser step is done."""
        loss, rate = row["loss"], row["lr"]
        self.progress.update(self.task, completed=row["step"] + 1, what=f"loss {loss:.4f}  lr {rate:.1e}")
        if write:
            self._write("steps", row)

    def epoch(self, row: dict[str, Any]) -> None:
        """One epoch is done and judged."""
        self._write("epochs", row)
        if not self.progress.disable:
            figures = "  ".join(f"{key} {value:.4g}" for key, value in row.items() if isinstance(value, (int, float)))
            self.progress.console.print(figures, highlight=False)

    def _write(self, table: str, row: dict[str, Any]) -> None:
        if self.main:
            self.tables[table].add(row)
        numbers = {f"{table}/{key}": value for key, value in row.items() if isinstance(value, (int, float))}
        self.accelerator.log(numbers, step=int(row["step"]))

    def close(self) -> None:
        """Stop the display; end the trackers."""
        self.progress.stop()
        for tracker in self.accelerator.trackers:  # end_training() would also tear down the process group
            tracker.finish()


def _progress(enabled: bool) -> Progress:
    return Progress(
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TextColumn("{task.fields[what]}"),
        TimeElapsedColumn(),
        TextColumn("left"),
        TimeRemainingColumn(),
        console=Console(stderr=True),
        disable=not enabled,
    )
