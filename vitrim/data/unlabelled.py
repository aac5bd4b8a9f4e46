"""Photographs without labels: all below a folder, whatever its shape, or named one by one."""

from __future__ import annotations

import os
from pathlib import Path

from ..common.walking import ENDINGS, Walk, entries_of, is_photograph
from .classes import Classes
from .folders import below, folders_in, split_folder
from .listed import FileList, is_listed
from .photographs import Photographs

UNLABELLED = Classes((), (), "none", unlabelled=True)


def unlabelled(folder: str | Path, config: dict) -> Photographs:
    """All images below a folder, without labels; links to folders are followed.

    config: timm's data configuration, as `data_config` gives it
    Raises ValueError for a folder that is missing or holds no image.
    """
    return Photographs(all_below(folder, None), UNLABELLED, config, None)


def all_below(folder: str | Path, split: str | None) -> FileList:
    """The image files below a folder, or below its folder `split`.

    Raises ValueError as `unlabelled` does.
    """
    folder = Path(folder).expanduser()
    if not folder.is_dir():
        raise ValueError(f"{folder} is not a folder: give one with photographs in it")
    folder = folder if split is None else split_folder(folder, split)
    files, left_out = below(folder)
    if not files:
        raise ValueError(f"{folder} holds no image ({', '.join(ENDINGS)})")
    return FileList(folder, files, left_out)


def is_flat(path: str | Path, split: str | None) -> bool:
    """Whether nothing says of which class photographs are: they are named one by one, or lie in a folder, and none in
    the folders inside it.

    False for other files, and names. Raises ValueError, as `split_folder` does, for a split that is not there.
    """
    folder = Path(path).expanduser()
    if not folder.is_dir():
        return is_listed(path) and not is_photograph(folder.name)
    folder = split_folder(folder, split)
    loose = (entry.path for entry in entries_of(folder) if is_photograph(entry.name))
    if all(os.path.isdir(path) for path in loose):
        return False
    walk = Walk(folder)
    inside = (str(folder / name) for name in folders_in(folder))
    return not any(photographs or links for photographs, links in map(walk.inside, inside))
