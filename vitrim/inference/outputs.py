"""What a run leaves behind: a file of predictions, or a folder of shards; published at once, when all is there."""

from __future__ import annotations

import os
import shutil
from abc import ABC, abstractmethod
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np

from .journal import ASKED, ENDED, LOCK, UNREADABLE, Journal, Unfinished
from .shards import shard_writer
from .tables import COLUMNS, Rows, table_for

Skipped = list[dict[str, str]]


class Output(ABC):
    """Where rows go.

    overwrite: whether what is there may be replaced
    """

    ending: str

    def __init__(self, out: str | Path, overwrite: bool):
        self.journal, self.overwrite = Journal(out), overwrite

    @abstractmethod
    def add(self, part: int, files: Sequence[str], columns: dict[str, np.ndarray], skipped: Skipped) -> None:
        """A part is computed. Raises `Unfinished` where the disk refuses."""

    @abstractmethod
    def end(self, found: dict[str, Any]) -> None:
        """All parts are there: make them what is to be published. Killed, it begins again."""

    @abstractmethod
    def move(self) -> None:
        """Put it where it belongs. Killed, it goes on."""

    @property
    @abstractmethod
    def unreadable(self) -> Path:
        """The file that lists the images that could not be read, where there are any."""

    def publish(self) -> None:
        """`move`, unless something has come to lie there since. Raises `Unfinished` where the disk refuses."""
        try:
            self.move()
        except OSError as error:
            raise Unfinished(
                f"{self.journal.out} cannot be written: {error.strerror or error}; all of it lies in "
                f"{self.journal.folder}, and the same command puts it in place"
            ) from error

    def parts(self) -> list[Path]:
        """The parts in order."""
        return [self.journal.part(number, self.ending) for number in sorted(self.journal.done())]

    def _check_free(self) -> None:
        """Raise Unfinished where something lies in the place of the output that may not be replaced."""
        out = self.journal.out
        if os.path.lexists(out) and not self.overwrite and not (out.is_dir() and not os.listdir(out)):
            raise Unfinished(f"{out} is there now: give --overwrite to put what lies in {self.journal.folder} there")


class PredictionFile(Output):
    """CSV, JSON lines or Parquet, by the ending; what could not be read in `OUT.unreadable.jsonl`.

    top: how many classes a row has
    """

    def __init__(self, out: str | Path, overwrite: bool, top: int):
        super().__init__(out, overwrite)
        self.table = table_for(Path(out), top)
        self.ending = self.table.ending
        self._whole = self.journal.folder / f"whole{self.ending}"

    @property
    def unreadable(self) -> Path:
        return self.journal.out.with_name(f"{self.journal.out.name}.unreadable.jsonl")

    def add(self, part: int, files: Sequence[str], columns: dict[str, np.ndarray], skipped: Skipped) -> None:
        rows = Rows(files, {name: columns[name] for name in COLUMNS})
        self.journal.add(part, lambda path: self.table.write(rows, path), self.ending, skipped)

    def end(self, found: dict[str, Any]) -> None:
        parts = self.parts()
        self.journal.fill(self._whole, lambda path: self.table.join(parts, path))
        self.journal.end(found)

    def move(self) -> None:
        if self._whole.exists():
            self._check_free()
        if not self.journal.found()["unreadable"]:
            with suppress(FileNotFoundError):
                os.unlink(self.unreadable)  # of what is replaced
        for path, place in ((self.journal.folder / UNREADABLE, self.unreadable), (self._whole, self.journal.out)):
            if path.exists():
                os.replace(path, place)
        self.journal.close()


class FeatureFolder(Output):
    """Shards of features in a folder, which also holds `_run.json`, what was asked and how much there is, and
    `_unreadable.jsonl`: readers of Parquet pass over names that begin so.

    format: npy or parquet
    """

    def __init__(self, out: str | Path, overwrite: bool, format: str):
        super().__init__(out, overwrite)
        self._write, self.ending = shard_writer(format), f".{format}"

    @property
    def unreadable(self) -> Path:
        return self.journal.out / UNREADABLE

    def add(self, part: int, files: Sequence[str], columns: dict[str, np.ndarray], skipped: Skipped) -> None:
        self.journal.list_skipped(part, skipped)
        self._write(self.journal.part(part, self.ending), files, columns["embedding"], self.journal.fill)

    def end(self, found: dict[str, Any]) -> None:
        self.journal.end(found)

    def move(self) -> None:
        self._check_free()
        folder, out = self.journal.folder, self.journal.out
        old = out.with_name(f"{out.name}.replaced")
        for name in os.listdir(folder):
            if name in (ASKED, LOCK) or name.startswith((".", "unreadable-")):
                os.unlink(folder / name)
        if is_feature_folder(out):
            shutil.rmtree(old, ignore_errors=True)
            os.replace(out, old)
        os.replace(folder, out)
        shutil.rmtree(old, ignore_errors=True)


def is_feature_folder(path: Path) -> bool:
    """Whether a folder is what a run has left."""
    return (path / ENDED).is_file()
