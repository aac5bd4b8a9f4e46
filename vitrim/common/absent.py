"""Files, folders and classes that are not there: what is likely meant, by what lies where they should be."""

from __future__ import annotations

import os
import re
from collections.abc import Sequence
from itertools import islice
from pathlib import Path

from .text import few, nearest, shortened

_NUMBER = re.compile(r"\d+")
LISTED = 10_000  # names of a folder that are looked at: a look, no search


def absent(kind: str, path: str | Path, way: str) -> str:
    """A message of what is not there: what is called nearly so, and only where nothing is what to give.

    kind: what it should be, in words; way: what to do

    Example:
        >>> absent("checkpoint", "wights.pth", "give a file of weights")
        'there is no checkpoint wights.pth: give a file of weights'
        >>> absent("file or folder", "fotos", "give a folder")
        'there is no file or folder fotos: did you mean photos?'
    """
    near = near_path(path)
    return f"there is no {kind} {shortened(path)}: {f'did you mean {shortened(near)}?' if near else way}"


def absent_class(file: str | Path, name: str, there: Sequence[str]) -> str:
    """A message of a method whose class is not in its file, or is not named. there: the methods' classes in it

    Example:
        >>> absent_class("mine.py", "Outler", ["Outlier", "Inlier"])
        'mine.py has no class Outler that is a vitrim.Method: did you mean mine.py:Outlier? it has Outlier, Inlier'
        >>> absent_class("mine.py", "", ["Outlier"])
        'mine.py names no class: give mine.py:Outlier'
    """
    file = shortened(file)
    what = f"has no class {shortened(name, 40)} that is a vitrim.Method"
    what = what if name else "names no class"
    near = nearest(name, there)
    if not near:
        return f"{file} {what}: give {' or '.join(f'{file}:{cls}' for cls in there[:2]) or f'{file}:Class'}"
    return f"{file} {what}: did you mean {file}:{near[0]}? it has {few(there, 5)}"


def near_path(path: str | Path) -> str:
    """What is there under nearly the same path; empty for nothing. It never raises.

    The first part of the path that is not there is compared with what lies in its folder.

    Example:
        >>> near_path("fotos/cat"), near_path("photos/cta"), near_path("photos")
        ('photos/cat', 'photos/cat', '')
    """
    try:
        return _near(Path(path))
    except (OSError, RuntimeError, ValueError):  # closed, no home folder, no name that a file could have
        return ""


def _near(path: Path) -> str:
    parts = path.parts
    for count in range(1, len(parts) + 1):
        part = Path(*parts[:count])
        if part.expanduser().exists():
            continue
        near = _alike(part.name, _names(part.expanduser().parent, hidden=part.name.startswith(".")))
        if not near:
            return ""
        beside = part.with_name(near)
        whole = beside.joinpath(*parts[count:])
        return str(whole if whole.expanduser().exists() else beside)
    return ""


def _alike(name: str, names: Sequence[str]) -> str:
    """The name that is most like another, or the same but for its ending; by the ending alone none is. Empty for
    none."""
    path = Path(name)
    # Files that are numbered are all alike, and no number is meant for another.
    alike = [
        other
        for other in nearest(name, names, n=5)
        if nearest(path.stem, [Path(other).stem]) and not _numbered_alike(name, other)
    ]
    same = [other for other in names if path.suffix and Path(other).suffix and Path(other).stem == path.stem]
    return next(iter([*alike, *same]), "")


def _numbered_alike(one: str, other: str) -> bool:
    return all(map(_NUMBER.search, (one, other))) and _NUMBER.sub("", one) == _NUMBER.sub("", other)


def _names(folder: Path, hidden: bool) -> list[str]:
    """What lies in a folder, but for what the system hides."""
    with os.scandir(folder) as entries:
        return sorted(entry.name for entry in islice(entries, LISTED) if hidden or not entry.name.startswith("."))
