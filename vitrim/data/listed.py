"""Photographs that are named one by one: below a folder, by a pattern, in a list, or a single one."""

from __future__ import annotations

import glob
import hashlib
import os
from array import array
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from pickle import PickleBuffer
from typing import Any

from ..common.places import UNLABELLED, check_there, is_named, is_pattern
from ..common.text import reason, shortened
from ..common.walking import ENDINGS, Walk, is_photograph
from .folders import below

FOLDERS = "folders"
_PACKED = (".gz", ".tgz", ".zip", ".bz2", ".xz", ".zst", ".7z", ".rar")
_MARK = b"\xef\xbb\xbf"  # editors on Windows put it in front of text


class Names(Sequence[str]):
    """Names in one piece of memory: a list of ten million texts takes six times as much, and a process that is forked
    copies every page of it on which a text lies that it looks at.

    Example:
        >>> names = Names(["a.jpg", "b/c.jpg"])
        >>> len(names), names[1], list(names)
        (2, 'b/c.jpg', ['a.jpg', 'b/c.jpg'])
    """

    def __init__(self, names: Iterable[str]):
        text, ends = bytearray(), array("q", [0])
        for name in names:
            text += os.fsencode(name)
            ends.append(len(text))
        self._text: Any = bytes(text)
        self._ends: Any = ends

    @classmethod
    def of(cls, text: Any, ends: Any) -> Names:
        """Names in memory that is there already."""
        names = cls(())
        names._text, names._ends = memoryview(text).cast("B"), memoryview(ends).cast("B").cast("q")
        return names

    def __reduce_ex__(self, protocol: Any) -> Any:
        if protocol < 5:
            return Names, (list(self),)
        return Names.of, (PickleBuffer(self._text), PickleBuffer(self._ends))  # not copied by who can share them

    def __len__(self) -> int:
        return len(self._ends) - 1

    def __getitem__(self, index):
        if isinstance(index, slice):
            return [self[i] for i in range(*index.indices(len(self)))]
        if not -len(self) <= index < len(self):
            raise IndexError(f"{index} of {len(self)} names")
        index %= len(self)
        return os.fsdecode(bytes(self._text[self._ends[index] : self._ends[index + 1]]))

    @property
    def digest(self) -> str:
        """Tells other names, or another order, apart."""
        found = hashlib.sha256(self._ends)
        found.update(self._text)
        return found.hexdigest()


class FileList:
    """Image files without labels, named one by one. `left_out` counts what else lies there, by kind.

    root: what the names are relative to; empty: the folder where the program runs
    """

    names = None
    empty: Sequence[str] = ()

    def __init__(self, root: Path | str, files: Iterable[str], left_out: dict[str, int] | None = None):
        self.root, self.files, self.left_out = str(root), Names(files), left_out or {}

    def __len__(self) -> int:
        return len(self.files)

    def name(self, index: int) -> str:
        return self.files[index]

    def read(self, index: int) -> tuple[str, int]:
        return os.path.join(self.root, self.files[index]), 0

    def labels(self) -> list[int]:
        return [0] * len(self)


def is_listed(path: str | Path) -> bool:
    """Whether this is a pattern, a list of files or a single photograph: nothing that says anything of labels."""
    local = Path(path).expanduser()
    return is_pattern(path) or (local.is_file() and local.suffix.lower() != ".tar")


def listed_files(path: str | Path) -> FileList:
    """The photographs that a pattern, a list or a single name stands for; a pattern's in sorted order, a list's in its
    own, where what cannot be read is found out later.

    Raises ValueError, in one line, where there is none, and for a file that is no list.
    """
    local = Path(path).expanduser()
    if is_pattern(path):
        return _matching(str(local))
    if is_photograph(local.name):
        return FileList("", [str(local)])
    if local.suffix.lower() in _PACKED:
        raise ValueError(f"{local} is packed: unpack it, or give a .tar that is not compressed")
    found = FileList("", _lines(local))
    if not len(found):
        raise ValueError(f"{local} lists no file: give a file with the name of a photograph on each line")
    return found


def several(places: Sequence[str | Path]) -> FileList:
    """The photographs that several words stand for, in their order, each once: photographs, patterns, and folders with
    all below them; what a shell makes of `photos/*`. Files of other kinds are left out, as they are in a folder.

    Raises ValueError where there is none, for what is not there, and for what has to be given alone.
    """
    found: dict[str, None] = {}
    walk = Walk(Path("."))
    for place in places:
        found |= dict.fromkeys(_of_one(place, walk))
    if not found:
        kinds = ", ".join(ENDINGS)
        raise ValueError(f"{shortened(places[0])} and what follows is no image ({kinds}): give a list of files alone")
    return FileList("", found, dict(walk.left_out))


def _of_one(place: str | Path, walk: Walk) -> Iterable[str]:
    local = Path(place).expanduser()
    if is_named(place) or local.suffix.lower() == ".tar":
        raise ValueError(f"{shortened(place)} is one of several: give photographs, folders and patterns, or it alone")
    if is_pattern(place):
        matching = _matching(str(local))
        walk.left_out.update(matching.left_out)
        return matching.files
    if local.is_dir():
        files, left_out = below(local)
        walk.left_out.update(left_out)
        return (os.path.join(local, file) for file in files)
    check_there(place, UNLABELLED)
    return walk.sort_out([str(local)])


def _matching(pattern: str) -> FileList:
    walk, folders = Walk(Path(".")), 0
    found = []
    for path in glob.iglob(pattern, recursive=True):
        if os.path.isdir(path):
            folders += 1
        else:
            found += walk.sort_out([path])
    if not found:
        raise ValueError(f"{pattern} matches no image ({', '.join(ENDINGS)})")
    return FileList("", sorted(found), dict(walk.left_out) | ({FOLDERS: folders} if folders else {}))


def _lines(path: Path) -> Iterator[str]:
    try:
        with open(path, "rb") as file:
            for number, line in enumerate(file):
                line = line.removeprefix(_MARK) if number == 0 else line
                if b"\0" in line:
                    raise ValueError(f"{path} is no text: give a folder, a .tar, or a list with a file on each line")
                if name := line.rstrip(b"\r\n"):
                    yield os.fsdecode(name)
    except OSError as error:
        raise ValueError(f"{path} cannot be read: {reason(error)}") from error
