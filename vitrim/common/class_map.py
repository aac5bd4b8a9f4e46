"""Class maps: files that say which class of the model each name is."""

from __future__ import annotations

import csv
import json
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from .absent import absent
from .text import counted, few, first_line, reason, shortened

_WHOLE = re.compile(r"\d+")
_FORMS = "lines `name,index`, one name a line in the model's order, or JSON: {name: index}, {index: name} or [names]"
Pairs = list[tuple[str, int]]


def read_class_map(
    file: str | Path | Mapping[str, int], num_classes: int = 0, what: str | None = None
) -> dict[str, int]:
    """Class names with the model's class indices, from a file or as they are given.

    JSON holds `{"cat": 0}` (torchvision's `class_to_idx`), `{"0": "cat"}` (the `id2label` of transformers) or
    `["cat", "dog"]`. Any other file has lines `name,index` (or with a tab or spaces between them, or the index first),
    or one name a line, the first for index 0.

    num_classes: how many classes the model has. A list of names alone must have as many: a shorter one would number
                 its names from 0, whatever they are to the model. 0: nothing is known of a model
    what:        what to call it in messages; None: the class map, and its file

    Raises ValueError, in one line, for a file that is none of these, for a list of another length, and for a name with
    two indices.

    Example:
        >>> read_class_map({"cat": 1, "dog": 0})
        {'cat': 1, 'dog': 0}
        >>> read_class_map({"cat": -1})
        Traceback (most recent call last):
        ValueError: the class map has what is no class index, a whole number from 0: cat: -1
    """
    if isinstance(file, Mapping):
        return _checked([(str(name), index) for name, index in file.items()], what or "the class map")
    path = Path(file).expanduser()
    what = what or f"the class map {path}"
    try:
        text = path.read_text(encoding="utf-8-sig")
    except FileNotFoundError as error:
        raise ValueError(absent("class map", file, "give a file of lines `name,index`")) from error
    except (OSError, UnicodeDecodeError) as error:
        raise ValueError(f"{what} cannot be read: {reason(error)}") from error
    found = (_from_json if path.suffix.lower() == ".json" else _from_lines)(text, what, num_classes)
    return _checked(found, what)


def names_in_order(file: str | Path) -> list[str]:
    """The names of a file that has one a line and no index; empty: it is another one, or cannot be read.

    Example:
        >>> Path("names.txt").write_text("crane\\ncrane\\n") and names_in_order("names.txt")
        ['crane', 'crane']
    """
    path = Path(file).expanduser()
    try:
        lines = [line.strip() for line in path.read_text(encoding="utf-8-sig").splitlines() if line.strip()]
    except (OSError, UnicodeDecodeError):
        return []
    indexed = path.suffix.lower() == ".json" or any(_pair(_cells(line)) for line in lines)
    return [] if indexed else lines


def _from_json(text: str, what: str, num_classes: int) -> Pairs:
    try:
        found: Any = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise ValueError(f"{what} is not JSON: {first_line(error)}") from error
    if isinstance(found, list) and all(isinstance(name, str) for name in found):
        return _numbered(found, what, num_classes)
    if isinstance(found, dict) and all(isinstance(name, str) for name in found.values()):
        if all(_WHOLE.fullmatch(index) for index in found):
            return [(name, int(index)) for index, name in found.items()]
    elif isinstance(found, dict):
        return list(found.items())
    raise ValueError(f"{what} is none: give {_FORMS}")


def _from_lines(text: str, what: str, num_classes: int) -> Pairs:
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    pairs = [_pair(_cells(line)) for line in lines]
    if not any(pairs):
        return _numbered(lines, what, num_classes)
    if all(pairs[1:]):  # the first line may be a header
        return [pair for pair in pairs if pair]
    wrong = lines[pairs.index(None, 1)]
    raise ValueError(f"{what}: {shortened(wrong)!r} is no name with an index; give {_FORMS}")


def _numbered(names: list[str], what: str, num_classes: int) -> Pairs:
    """Names without indices, which are all of the model's, in its order."""
    if names and num_classes not in (0, len(names)):
        raise ValueError(
            f"{what} lists {counted(len(names), 'name')} without an index, and the model has "
            f"{counted(num_classes, 'class', 'classes')}: list all {num_classes:,} in the model's order, or name a few "
            "with lines `name,index`"
        )
    return [(name, index) for index, name in enumerate(names)]


def _cells(line: str) -> list[str]:
    """The line's cells: between commas, else tabs, else what stands before and after the last space."""
    if "," in line:
        return [cell.strip() for cell in next(csv.reader([line]))]
    return [cell.strip() for cell in (line.split("\t") if "\t" in line else line.rsplit(None, 1))]


def _pair(row: list[str]) -> tuple[str, int] | None:
    if len(row) != 2:
        return None
    name, index = row if _WHOLE.fullmatch(row[1]) else reversed(row)
    return (name, int(index)) if _WHOLE.fullmatch(index) else None


def _checked(pairs: list[tuple[str, Any]], what: str) -> dict[str, int]:
    if not pairs:
        raise ValueError(f"{what} is empty: give {_FORMS}")
    wrong = [f"{name}: {index!r}" for name, index in pairs if isinstance(index, bool) or not isinstance(index, int)]
    wrong += [f"{name}: {index}" for name, index in pairs if not wrong and index < 0]
    if wrong:
        raise ValueError(f"{what} has what is no class index, a whole number from 0: {few(wrong)}")
    found: dict[str, int] = {}
    for name, index in pairs:
        if found.setdefault(name, index) != index:
            raise ValueError(f"{what} gives {name} two indices: {found[name]} and {index}")
    return found
