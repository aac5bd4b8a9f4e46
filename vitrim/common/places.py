"""Where images come from, as far as a name and a look at the file system tell."""

from __future__ import annotations

from collections.abc import Iterable
from glob import has_magic
from pathlib import Path

from .text import shortened

STREAMS = {"hfids", "tfds", "wds"}
PREFIXES = STREAMS | {"hfds", "torch"}  # of names that timm's `create_dataset` knows


def is_named(path: str | Path) -> bool:
    """Whether this is a name of timm's (`hfds/...`), and no file or folder that is called so."""
    return str(path).partition("/")[0].lower() in PREFIXES and not Path(path).expanduser().exists()


def is_pattern(path: str | Path) -> bool:
    """Whether this is a pattern of file names, such as `photos/*.jpg`, and no file or folder that is called so.

    Example:
        >>> is_pattern("photos/**/*.jpg"), is_pattern("photos")
        (True, False)
    """
    return has_magic(str(path)) and not is_named(path) and not Path(path).expanduser().exists()


def check_pictures(places: Iterable[str | Path]) -> None:
    """Raise ValueError for a file or folder that is not there; what a pattern matches is not looked at.

    Example:
        >>> check_pictures(["photos/*.png"])
        >>> check_pictures(["cat.jpg"])
        Traceback (most recent call last):
        ValueError: there is no file cat.jpg: give photographs, folders of them, or patterns in quotes
    """
    for place in places:
        if not is_pattern(place) and not Path(place).expanduser().exists():
            raise ValueError(
                f"there is no file {shortened(place)}: give photographs, folders of them, or patterns in quotes"
            )


def check_there(path: str | Path) -> None:
    """Raise ValueError for a file or folder that is not there: known before a model is opened, and at once.

    Example:
        >>> check_there("nowhere")
        Traceback (most recent call last):
        ValueError: there is no file or folder nowhere: give a folder with one folder per class, a .tar file, ...
    """
    try:
        there = is_named(path) or is_pattern(path) or Path(path).expanduser().exists()
    except OSError as error:  # a folder above it is closed
        raise ValueError(f"{path} cannot be opened: {error.strerror}; make it readable for you") from error
    if not there:
        raise ValueError(
            f"there is no file or folder {Path(path).expanduser()}: give a folder with one folder per class, a .tar "
            "file, or a name with hfds/, hfids/, tfds/, wds/ or torch/ in front"
        )
