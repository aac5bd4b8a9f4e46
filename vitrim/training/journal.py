"""What a run says: a CSV row for every so many steps, trackers by option, a live display with the time left."""

from __future__ import annotations

import csv
import io
from collections.abc import Iterable
from contextlib import ExitStack
from io import FileIO
from pathlib import Path
from typing import Any

from ..common.files import write_whole
from ..common.progress import hidden, progress, tell
from .checkpoints import RunStopped


class Table:
    """A CSV file that grows by whole rows; the first row fixes the columns.

    Rows at or after `step` are dropped on opening, so that a resumed run does not say things twice, and so is what a
    killed run has left of a row. The file is then replaced, whole.
    """

    def __init__(self, path: Path, step: int):
        self.path = path
        path.parent.mkdir(parents=True, exist_ok=True)
        self.columns, rows = _whole_rows(path)
        before = [row for row in rows if int(row["step"]) < step]
        if path.exists():
            text = self._as_text(before, header=True) if before else ""
            write_whole(path, lambda beside: Path(beside).write_text(text, encoding="utf-8", newline=""))
        self.columns = self.columns if before else None

    def add(self, row: dict[str, Any]) -> None:
        """Append one row, at once. Raises RunStopped where the disk is full or refuses."""
        header = self.columns is None
        self.columns = self.columns or list(row)
        try:
            with open(self.path, "ab", buffering=0) as file:
                _write_all(file, self._as_text([row], header).encode())
        except OSError as error:
            raise RunStopped(
                f"{self.path} cannot be written: {error.strerror or error}; see to that and go on with --resume"
            ) from None

    def _as_text(self, rows: Iterable[dict[str, Any]], header: bool) -> str:
        text = io.StringIO(newline="")
        writer = csv.DictWriter(text, self.columns or [], extrasaction="ignore")
        if header:
            writer.writeheader()
        writer.writerows(rows)
        return text.getvalue()


def _write_all(file: FileIO, line: bytes) -> None:
    """One call, so that neither a kill nor a reader sees half a row; a second one lets a full disk say so."""
    while line:
        line = line[file.write(line) :]


def _whole_rows(path: Path) -> tuple[list[str] | None, list[dict[str, Any]]]:
    """The columns of a table and its rows, without those that are cut short."""
    if not path.exists():
        return None, []
    lines = path.read_text(encoding="utf-8", errors="replace").splitlines(keepends=True)
    reader = csv.DictReader([line for line in lines if line.endswith("\n")])
    columns = list(reader.fieldnames or [])
    rows = [row for row in reader if None not in row and None not in row.values()]
    return columns, [row for row in rows if row.get("step", "").isdecimal()]


class Journal:
    """Writes `steps.csv` and `epochs.csv`, hands the same figures to Accelerate's trackers, and shows progress.

    Only the main process writes and shows. step, judged: steps done, and those of the epochs that have been judged
    """

    def __init__(self, folder: Path, accelerator, step: int, judged: int, steps: int, show: bool = True):
        self.accelerator, self.main = accelerator, accelerator.is_main_process
        done = {"steps": step, "epochs": judged}
        self.tables = {name: Table(folder / f"{name}.csv", at) for name, at in done.items()} if self.main else {}
        self.display = ExitStack()
        self.display.enter_context(hidden(not (self.main and show)))
        self.report = self.display.enter_context(progress("training", steps, step))

    def step(self, row: dict[str, Any], write: bool) -> None:
        """One optimiser step is done."""
        loss, rate = row["loss"], row["lr"]
        self.report(row["step"] + 1, [f"loss {loss:.4f}", f"lr {rate:.1e}"])
        if write:
            self._write("steps", row)

    def epoch(self, row: dict[str, Any]) -> None:
        """One epoch is done and judged."""
        self._write("epochs", row)
        tell("  ".join(f"{key} {value:.4g}" for key, value in row.items() if isinstance(value, (int, float))))

    def _write(self, table: str, row: dict[str, Any]) -> None:
        if self.main:
            self.tables[table].add(row)
        numbers = {f"{table}/{key}": value for key, value in row.items() if isinstance(value, (int, float))}
        self.accelerator.log(numbers, step=int(row["step"]))

    def close(self) -> None:
        """Stop the display; end the trackers."""
        self.display.close()
        for tracker in self.accelerator.trackers:  # end_training() would also tear down the process group
            tracker.finish()
