"""Photographs below folders, by their names: found once each whatever links there are, and all else counted."""

from __future__ import annotations

import glob
import os
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from .text import reason, shortened

# torchvision's, whose import takes seconds, and .gif.
ENDINGS = (".bmp", ".gif", ".jpeg", ".jpg", ".pgm", ".png", ".ppm", ".tif", ".tiff", ".webp")
HIDDEN = "hidden files and folders"
AGAIN, CLOSED = "links to folders that are read already", "folders that cannot be opened"


def is_photograph(path: str) -> bool:
    """Whether a file's name is that of a photograph; hidden files (a Mac's `._1.jpg`) are none."""
    name = os.path.basename(path)
    return name.lower().endswith(ENDINGS) and not name.startswith(".")


def entries_of(folder: Path) -> list[os.DirEntry]:
    """What lies in a folder. Raises ValueError, in one line, where it cannot be opened."""
    with _opened(folder) as entries:
        return list(entries)


def check_opens(folder: Path) -> None:
    """Raise ValueError for a folder that cannot be opened: whatever it holds would be missed without a word."""
    with _opened(folder):
        pass


def _opened(folder: Path) -> Any:
    try:
        return os.scandir(folder)
    except OSError as error:
        way = "make it readable for you, or give another folder"
        raise ValueError(f"the folder {folder} cannot be opened: {reason(error)}; {way}") from error


def is_folder(entry: os.DirEntry) -> bool:
    """Whether it is a folder, or a link to one."""
    try:
        return entry.is_dir()
    except OSError:  # a link that leads to itself
        return False


class Walk:
    """Finds the photographs below folders. Links are followed, but no folder is read twice, and none that holds the
    one where the walk began: links that form a loop end. What is no photograph is counted in `left_out`."""

    def __init__(self, root: Path):
        real = Path(os.path.realpath(root))
        self._seen = {identity for folder in (real, *real.parents) if (identity := _identity(folder))}
        self.left_out: Counter[str] = Counter()

    def enter(self, folder: str) -> bool:
        """Whether the folder is new; from now on it is not."""
        identity = _identity(folder)
        if identity is None or identity in self._seen:
            self.left_out[CLOSED if identity is None else AGAIN] += 1
            return False
        self._seen.add(identity)
        return True

    def inside(self, folder: str) -> tuple[list[str], list[str]]:
        """The photographs in a folder that was entered and below; and the links to folders there, not yet followed."""
        links: list[str] = []
        photographs = list(self.each(folder, links))
        return photographs, sorted(links)

    def each(self, folder: str, links: list[str]) -> Iterator[str]:
        """The same photographs one by one; links to folders are put into `links`."""
        waiting = [folder]
        while waiting:
            for entry in self._entries(waiting.pop()):
                if not is_folder(entry):
                    yield from self.sort_out([entry.path])
                elif entry.name.startswith("."):
                    self.left_out[HIDDEN] += 1
                elif entry.is_symlink():
                    links.append(entry.path)
                elif self.enter(entry.path):
                    waiting.append(entry.path)

    def follow(self, links: list[str]) -> list[str]:
        """The photographs behind links to folders, and behind the links found there."""
        photographs, waiting = [], list(links)
        while waiting:
            link = waiting.pop(0)
            upwards = os.path.realpath(os.path.dirname(link)).startswith(os.path.join(os.path.realpath(link), ""))
            if upwards:  # the link leads out of the folder that it lies in, into one above
                self.left_out[AGAIN] += 1
            elif self.enter(link):
                found, more = self.inside(link)
                photographs += found
                waiting += more
        return photographs

    def sort_out(self, files: list[str]) -> list[str]:
        """Those that are photographs; the others are counted by the ending of their names."""
        found = [file for file in files if is_photograph(file)]
        for file in set(files).difference(found):
            stem, ending = os.path.splitext(os.path.basename(file))
            if not stem.startswith("."):
                self.left_out[shortened(ending.lower(), 20) or "without an ending"] += 1
            elif ending.lower() in ENDINGS:
                self.left_out[HIDDEN] += 1
        return found

    def _entries(self, folder: str) -> list[os.DirEntry]:
        try:
            with os.scandir(folder) as entries:
                return sorted(entries, key=lambda entry: entry.name)
        except OSError:
            self.left_out[CLOSED] += 1
            return []


def _identity(folder: str | Path) -> tuple[int, int] | None:
    try:
        found = os.stat(folder)
    except OSError:
        return None
    return found.st_dev, found.st_ino


def any_below(folder: Path) -> bool:
    """Whether there is a photograph below a folder; the first one found ends the search.

    Raises ValueError for a folder that cannot be opened.

    Example:
        >>> any_below(Path("photos")), Path("bare").mkdir(), any_below(Path("bare"))
        (True, None, False)
    """
    check_opens(folder)
    walk = Walk(folder)
    links: list[str] = []
    return any(walk.each(str(folder), links)) or bool(walk.follow(sorted(links)))


def any_matching(pattern: str, photographs: bool = True) -> bool:
    """Whether a pattern matches a photograph, or else any file.

    Example:
        >>> any_matching("photos/*/0.png"), any_matching("photos/*")
        (True, False)
    """
    found = (path for path in glob.iglob(pattern, recursive=True) if not os.path.isdir(path))
    return any(is_photograph(path) for path in found) if photographs else any(map(os.path.isfile, found))
