"""Predictions as a table in a file: CSV, JSON lines or Parquet, written in parts that are joined at the end."""

from __future__ import annotations

import csv
import io
import json
import shutil
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from ..common.extras import require

ROWS_IN_GROUP = 1 << 16  # of Parquet
PLAIN = ".10g"  # digits that tell every float32 apart
COLUMNS = ("label", "index", "probability")


@dataclass(frozen=True)
class Rows:
    """Rows of predictions: a file each, and arrays [n, k]."""

    files: Sequence[str]
    columns: dict[str, np.ndarray]

    def __iter__(self) -> Iterator[tuple[str, list[str], list[int], list[float]]]:
        yield from zip(self.files, *(self.columns[name].tolist() for name in COLUMNS), strict=True)


class Table(ABC):
    """A kind of file. top: how many classes a row has"""

    ending: str

    def __init__(self, top: int):
        self.top = top

    @abstractmethod
    def write(self, rows: Rows, path: Path) -> None:
        """A part."""

    @abstractmethod
    def join(self, parts: Sequence[Path], path: Path) -> None:
        """The whole file, of its parts in order."""


class Csv(Table):
    """A line for each image, with `label_1,index_1,probability_1` and so on; a header."""

    ending = ".csv"

    def write(self, rows: Rows, path: Path) -> None:
        with open(path, "w", encoding="utf-8", newline="") as file:
            for name, labels, indices, shares in rows:
                each = zip(labels, indices, (format(share, PLAIN) for share in shares), strict=True)
                file.write(_csv_row([name, *(cell for cells in each for cell in cells)]))

    def join(self, parts: Sequence[Path], path: Path) -> None:
        header = ["file", *(f"{column}_{rank}" for rank in range(1, self.top + 1) for column in COLUMNS)]
        _append(parts, path, ",".join(header).encode() + b"\n")


def _csv_row(cells: list[Any]) -> str:
    """A row that ends with a newline alone. Written as one that ends with both, since only then are carriage returns in
    a name quoted, and readers take them for ends of rows."""
    text = io.StringIO(newline="")
    csv.writer(text, lineterminator="\r\n").writerow(cells)
    return text.getvalue().removesuffix("\r\n") + "\n"


class JsonLines(Table):
    """An object for each image: `{"file": ..., "label": [...], "index": [...], "probability": [...]}`."""

    ending = ".jsonl"

    def write(self, rows: Rows, path: Path) -> None:
        with open(path, "w", encoding="utf-8", newline="") as file:
            for name, labels, indices, shares in rows:
                plain = [float(format(share, PLAIN)) for share in shares]
                row = {"file": name, "label": labels, "index": indices, "probability": plain}
                file.write(json.dumps(row, ensure_ascii=False) + "\n")

    def join(self, parts: Sequence[Path], path: Path) -> None:
        _append(parts, path, b"")


class Parquet(Table):
    """The columns `file`, and as lists `label`, `index` and `probability`."""

    ending = ".parquet"

    def __init__(self, top: int):
        super().__init__(top)
        import pyarrow as pa

        lists = {"label": pa.string(), "index": pa.int32(), "probability": pa.float32()}
        fields = [("file", pa.string()), *((name, pa.list_(kind)) for name, kind in lists.items())]
        self.schema = pa.schema(fields)

    def write(self, rows: Rows, path: Path) -> None:
        import pyarrow as pa
        import pyarrow.parquet as pq

        columns = [list(rows.files), *(rows.columns[name].tolist() for name in COLUMNS)]
        arrays = [pa.array(column, field.type) for column, field in zip(columns, self.schema, strict=True)]
        pq.write_table(pa.table(arrays, schema=self.schema), path)

    def join(self, parts: Sequence[Path], path: Path) -> None:
        import pyarrow as pa
        import pyarrow.parquet as pq

        with pq.ParquetWriter(path, self.schema) as writer:
            waiting: list[Any] = []
            for part in parts:
                waiting.append(pq.read_table(part, schema=self.schema))
                if sum(map(len, waiting)) >= ROWS_IN_GROUP:
                    writer.write_table(pa.concat_tables(waiting))
                    waiting = []
            if waiting:
                writer.write_table(pa.concat_tables(waiting))


TABLES: dict[str, Callable[[int], Table]] = {
    ".csv": Csv,
    ".jsonl": JsonLines,
    ".ndjson": JsonLines,
    ".parquet": Parquet,
}


def table_for(path: Path, top: int) -> Table:
    """The kind that a file's ending names. Raises ValueError for Parquet without pyarrow, and for other endings."""
    ending = path.suffix.lower()
    if ending not in TABLES:
        raise ValueError(f"{path} must end in {' or '.join(TABLES)}")
    if ending == ".parquet":
        require("data", "writing Parquet")
    return TABLES[ending](top)


def _append(parts: Sequence[Path], path: Path, header: bytes) -> None:
    with open(path, "wb") as out:
        out.write(header)
        for part in parts:
            with open(part, "rb") as file:
                shutil.copyfileobj(file, out)
