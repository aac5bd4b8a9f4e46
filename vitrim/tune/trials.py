"""What a search has tried, on the disk: killed at any moment it goes on where it was, and ends as if never stopped.

A line for each plan that was judged, written before the next is. A search is the same for the same seed, so it is
simply run again, and a plan whose line is there is not judged a second time.
"""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

from ..common.files import write_whole
from ..common.text import reason, shortened
from .space import Shape


class Trials:
    """The trials of one search.

    path:  where they lie; None: in memory alone
    asked: what the search was asked; lines of another search are not gone on with
    Raises ValueError for a file of another search, unless `restart`, which throws it away.
    """

    def __init__(self, path: Path | None, asked: dict[str, Any], restart: bool = False):
        self.path, self._known = path, {}
        self._tables: dict[str, Any] = {}
        self._begin: list[dict[str, Any]] = []
        head = {"asked": json.loads(json.dumps(asked))}
        if path is None:
            return
        lines = [] if restart else _read(path)
        if lines and lines[0] != head:
            raise ValueError(
                f"{shortened(path)} holds an unfinished search that was asked something else: give what it was given, "
                "another --out, or --overwrite to begin again"
            )
        self._tables = {line["of"]: line["table"] for line in lines[1:] if "table" in line}
        self._known = {(line["of"], _key(line)): line for line in lines[1:] if "table" not in line}
        self._begin = [head, *lines[1:]]  # written before the first trial is added, without what was torn

    def known(self, of: str, shape: Shape) -> tuple[bool, float] | None:
        """Whether a plan was better, and its distance, if it was tried before. of: which search of the run"""
        line = self._known.get((of, (shape.removed, shape.dropped)))
        return None if line is None else (line["better"], line["distance"])

    def add(self, of: str, shape: Shape, better: bool, distance: float) -> None:
        """A plan was judged."""
        line = {"of": of, "removed": shape.removed, "dropped": shape.dropped, "better": better, "distance": distance}
        self._known[of, (shape.removed, shape.dropped)] = line
        self._append(line)

    def table(self, of: str) -> dict[str, Any] | None:
        """What was measured before the search of a stack, if it was: another measurement would be another search."""
        return self._tables.get(of)

    def add_table(self, of: str, table: dict[str, Any]) -> None:
        """A stack's costs were measured."""
        self._tables[of] = table
        self._append({"of": of, "table": table})

    def _append(self, line: dict[str, Any]) -> None:
        if self.path is None:
            return
        if self._begin:
            _write(self.path, self._begin)
            self._begin = []
        with _refused(self.path), open(self.path, "ab") as file:
            file.write(json.dumps(line).encode() + b"\n")
            file.flush()
            os.fsync(file.fileno())

    def end(self) -> None:
        """The search is over, and what it has found is written."""
        if self.path is not None:
            self.path.unlink(missing_ok=True)


def kept_plans(path: Path) -> int:
    """How many plans a list of trials holds; 0 where there is none.

    Example:
        >>> kept_plans(Path("nowhere.jsonl"))
        0
    """
    return sum("better" in line for line in _read(path))


def _key(line: dict[str, Any]) -> tuple[tuple[int, ...], tuple[float, ...]]:
    return tuple(line["removed"]), tuple(line["dropped"])


def _read(path: Path) -> list[dict[str, Any]]:
    """The whole lines; a last one that was torn by a kill is dropped."""
    try:
        rows = path.read_bytes().split(b"\n")[:-1]
    except FileNotFoundError:
        return []
    except OSError as error:
        raise ValueError(f"{shortened(path)} cannot be read: {reason(error)}") from error
    try:
        return [json.loads(row) for row in rows]
    except ValueError as error:
        raise ValueError(f"{shortened(path)} is no list of trials: give another --out, or --overwrite") from error


def _write(path: Path, lines: list[dict[str, Any]]) -> None:
    write_whole(path, lambda there: Path(there).write_bytes(b"".join(json.dumps(x).encode() + b"\n" for x in lines)))


class _refused:
    """What the disk refuses becomes one line."""

    def __init__(self, path: Path):
        self.path = path

    def __enter__(self) -> None:
        return None

    def __exit__(self, kind: Any, error: Any, trace: Any) -> None:
        if isinstance(error, OSError):
            raise ValueError(f"{shortened(self.path)} cannot be written: {reason(error)}") from error
