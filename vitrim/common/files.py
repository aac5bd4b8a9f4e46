"""Files and JSON: refused before the work starts if they cannot be written, whole or not there when it ends."""

from __future__ import annotations

import json
import math
import os
import re
import sys
import tempfile
from collections.abc import Callable
from itertools import chain, count
from pathlib import Path
from typing import Any

from .absent import absent
from .text import portable
from .whole import Beside

STDOUT = "-"
LARGEST_REPORT = 10**8  # bytes
_BYTES = re.compile("[\udc80-\udcff]")  # that are no UTF-8, in a file's name


def check_output(path: str | Path | None, endings: tuple[str, ...] = ()) -> None:
    """Raise ValueError now, not after minutes of work, if `path` cannot be written."""
    if path is None or str(path) == STDOUT:
        return
    path = Path(path).expanduser()
    if endings and path.suffix.lower() not in endings:
        raise ValueError(f"{path} must end in {' or '.join(endings)}")
    if path.is_dir():
        raise ValueError(f"{path} is a folder: give a file to write")
    if _is_stream(path):
        return
    check_place(path)


def check_place(path: Path) -> None:
    """Raise ValueError now if nothing can be written beside `path`, be it a file or a folder."""
    folder = path.parent
    if not folder.is_dir():
        raise ValueError(f"{path} cannot be written: {absent('folder', folder, 'make it, or give another path')}")
    if not os.access(folder, os.W_OK):
        raise ValueError(f"{path} cannot be written: no permission in {folder}")
    try:
        tempfile.NamedTemporaryFile(dir=folder, prefix=".vitrim").close()
    except OSError as error:  # permissions alone do not tell, to root least of all
        raise ValueError(f"{path} cannot be written: {error.strerror or error} in {folder}") from error


def check_no_file(folder: str | Path) -> None:
    """Raise ValueError where a folder is to be made and there is a file: of that name, or in the place of one above it.

    Example:
        >>> Path("notes.txt").touch()
        >>> check_no_file("notes.txt/fast")
        Traceback (most recent call last):
        ValueError: notes.txt/fast cannot be made: notes.txt is a file; give a folder, which is made where there is none
    """
    folder = Path(folder).expanduser()
    for part in (folder, *folder.parents):
        if part.is_file():
            what = f"{folder} is a file" if part == folder else f"{folder} cannot be made: {part} is a file"
            raise ValueError(f"{what}; give a folder, which is made where there is none")


def check_new(path: str | Path, overwrite: bool, endings: tuple[str, ...] = (), flag: str = "--out") -> None:
    """`check_output`, and ValueError for a file that is there already, unless it may be replaced.

    flag: the option that names it
    """
    check_output(path, endings)
    if not overwrite and Path(path).expanduser().is_file():
        raise ValueError(f"{path} is there already: give another {flag}, or --overwrite")


def check_report(path: str | Path) -> None:
    """`check_output` for a report of figures. Raises ValueError also for a file that is there and is no such report: an
    earlier one may be replaced, weights or a program may not."""
    check_output(path)
    there = Path(path).expanduser()
    if str(path) != STDOUT and there.is_file() and there.stat().st_size and not _is_report(there):
        raise ValueError(f"--json {path} is there already and is no report of vitrim's: give another file")


def _is_report(path: Path) -> bool:
    try:
        found = json.loads(path.read_bytes()) if path.stat().st_size < LARGEST_REPORT else None
    except (OSError, ValueError):
        return False
    return isinstance(found, dict) and "vitrim" in found


def unused(path: Path) -> Path:
    """The path itself, or where there is something already the first of `name-2`, `name-3` ... that is free."""
    numbered = (path.with_stem(f"{path.stem}-{number}") for number in count(2))
    return next(free for free in chain([path], numbered) if not os.path.lexists(free))


def write_whole(path: str | Path, write: Callable[[str], Any]) -> Path:
    """Let `write` fill a file beside `path`, then rename it: readers never see half of it.

    A device or pipe (`/dev/null`, `/dev/stdout`) is written to as it is; a link stays, and its target is replaced.
    Raises ValueError where the file system refuses; what was there before is then as it was.
    """
    path = Path(path).expanduser()
    try:
        if _is_stream(path):
            write(str(path))
        else:
            with Beside(path.resolve()) as beside:
                write(str(beside.name))
                beside.publish()
    except OSError as error:
        raise ValueError(f"{path} cannot be written: {error.strerror or error}") from error
    return path


def _is_stream(path: Path) -> bool:
    """Whether there is something that is neither file nor folder, which renaming onto would destroy."""
    return path.exists() and not path.is_file() and not path.is_dir()


def write_json(target: str | None, figures: dict[str, Any]) -> None:
    """Figures as strict JSON, to a file or (`-`) to standard output; None: nowhere."""
    if target is None:
        return
    text = json.dumps(_strict(figures), indent=2, allow_nan=False) + "\n"
    if target == STDOUT:
        sys.stdout.write(text)
    else:
        write_whole(target, lambda path: Path(path).write_text(text, encoding="utf-8"))


def _strict(value: Any) -> Any:
    """JSON has no NaN and no infinity: they become null."""
    if isinstance(value, dict):
        return {str(key): _strict(inner) for key, inner in value.items()}
    if isinstance(value, (list, tuple)):
        return [_strict(inner) for inner in value]
    if isinstance(value, Path):
        return _strict(str(value))
    if isinstance(value, str) and _BYTES.search(value):
        return portable(value)
    if isinstance(value, float) and not math.isfinite(value):
        return None
    return value
