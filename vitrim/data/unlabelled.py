"""Photographs without labels: all below a folder, whatever its shape."""

from __future__ import annotations

import os
from pathlib import Path

from .classes import Classes
from .folders import ENDINGS, Walk, below, entries_of, folders_in, is_photograph, split_folder
from .photographs import Photographs
from .sources import Files

UNLABELLED = Classes((), (), "none", unlabelled=True)


def unlabelled(folder: str | Path, config: dict) -> Photographs:
    """All images below a folder, without labels; links to folders are followed.

    config: timm's data configuration, as `data_config` gives it
    Raises ValueError for a folder that is missing or holds no image.
    """
    return Photographs(all_below(folder, None), UNLABELLED, config, None)


def all_below(folder: str | Path, split: str | None) -> Files:
    """The image files below a folder, or below its folder `split`; each with a label that says nothing.

    Raises ValueError as `unlabelled` does.
    """
    folder = Path(folder).expanduser()
    if not folder.is_dir():
        raise ValueError(f"{folder} is not a folder: give one with photographs in it")
    folder = folder if split is None else split_folder(folder, split)
    files, left_out = below(folder)
    if not files:
        raise ValueError(f"{folder} holds no image ({', '.join(ENDINGS)})")
    return Files(folder, [(str(folder / file), 0) for file in files], None, left_out)


def is_flat(path: str | Path, split: str | None) -> bool:
    """Whether a folder has photographs, and none in the folders inside it: nothing there says of which class they are.

    False for what is no folder. Raises ValueError, as `split_folder` does, for a split that is not there.
    """
    folder = Path(path).expanduser()
    if not folder.is_dir():
        return False
    folder = split_folder(folder, split)
    loose = (entry.path for entry in entries_of(folder) if is_photograph(entry.name))
    if all(os.path.isdir(path) for path in loose):
        return False
    walk = Walk(folder)
    inside = (str(folder / name) for name in folders_in(folder))
    return not any(photographs or links for photographs, links in map(walk.inside, inside))
