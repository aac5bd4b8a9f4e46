"""Photographs in folders: found once each whatever links there are, and all else counted."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path

from timm.utils.misc import natural_key

from ..common.errors import OptionError, Part
from ..common.text import few
from ..common.walking import ENDINGS, Walk, check_opens, entries_of, is_folder, is_photograph

_SPLITS = {"train", "training", "val", "valid", "validation", "test", "eval", "evaluation"}
BESIDE = "photographs beside the class folders"


@dataclass(frozen=True)
class ClassFolders:
    """What a folder of class folders holds: `(file, class)` for each photograph, and the names of the classes.

    `empty` names the folders without a photograph, which are no classes; `left_out` counts what was not taken, by kind.
    """

    root: Path
    samples: list[tuple[str, int]]
    names: list[str]
    empty: list[str]
    left_out: dict[str, int]


def in_order(names: set[str]) -> list[str]:
    """Class names in timm's natural order (`2` before `10`, case ignored), which its training and validation use."""
    return sorted(names, key=lambda name: (natural_key(name), name))


def folders_in(root: Path) -> list[str]:
    """The names of the folders in `root` that are not hidden, in natural order."""
    return in_order({entry.name for entry in entries_of(root) if is_folder(entry) and not entry.name.startswith(".")})


def class_folders(root: Path, split: str | None) -> ClassFolders:
    """One folder per class, photographs anywhere below it; classes in natural order, files by sorted name.

    Raises ValueError, in one line, where there is no photograph.
    """
    root = split_folder(root, split)
    walk, names = Walk(root), folders_in(root)
    for name in names:
        check_opens(root / name)  # deeper ones are counted as left out, but a class would be gone
    by_class = _by_class(walk, root, names)
    _count_beside(walk, root)
    taken = [name for name in names if by_class[name]]
    if not taken:
        raise OptionError(*_why_empty(root, names))
    samples = [(file, label) for label, name in enumerate(taken) for file in sorted(by_class[name], key=os.path.split)]
    return ClassFolders(root, samples, taken, [name for name in names if not by_class[name]], dict(walk.left_out))


def _by_class(walk: Walk, root: Path, names: list[str]) -> dict[str, list[str]]:
    """Photographs of each class. Folders come before links, so that a link takes nothing from the class it leads to."""
    real_first = sorted(names, key=lambda name: (root / name).is_symlink())
    found: dict[str, list[str]] = {name: [] for name in names}
    links = {}
    entered = [name for name in real_first if walk.enter(str(root / name))]
    for name in entered:
        found[name], links[name] = walk.inside(str(root / name))
    for name in entered:
        found[name] += walk.follow(links[name])
    return found


def _count_beside(walk: Walk, root: Path) -> None:
    """What lies beside the class folders belongs to no class."""
    files = [entry.path for entry in entries_of(root) if not is_folder(entry)]
    if loose := walk.sort_out(files):
        walk.left_out[BESIDE] += len(loose)


def flat_files(root: str | Path, split: str | None) -> tuple[Path, list[str], dict[str, int]]:
    """All photographs below a folder, as sorted relative paths, and what was left out, counted by kind.

    Raises ValueError, in one line, where there is no photograph.
    """
    root = Path(root).expanduser()
    if not root.is_dir():
        raise ValueError(f"a label file goes with a folder of photographs; {root} is none")
    root = split_folder(root, split)
    photographs, left_out = below(root)
    if not photographs:
        raise OptionError(*_why_empty(root, folders_in(root)))
    return root, photographs, left_out


def below(root: Path) -> tuple[list[str], dict[str, int]]:
    """All photographs below a folder, whatever its shape, as sorted relative paths; and what was left out, by kind."""
    check_opens(root)
    walk = Walk(root)
    photographs, links = walk.inside(str(root))
    photographs += walk.follow(links)
    return sorted(Path(file).relative_to(root).as_posix() for file in photographs), dict(walk.left_out)


def split_folder(root: Path, split: str | None) -> Path:
    """`root/split` where a split is asked for; refuses a root that holds nothing but splits."""
    folders = folders_in(root)
    if split is not None and split not in folders:
        raise ValueError(f"{root} has no folder {split!r} for that split; it has {few(folders) or 'no folders'}")
    if split is None and folders and _SPLITS.issuperset(name.lower() for name in folders):
        raise ValueError(f"{root} holds the splits {few(folders)}: choose one, for example {root / folders[-1]}")
    return root / split if split else root


def _why_empty(root: Path, names: list[str]) -> tuple[Part, ...]:
    files = sorted(entry.name for entry in entries_of(root) if os.path.isfile(entry.path))
    if any(is_photograph(name) for name in files):
        return f"{root} has photographs but no class folders: give a file of lines `file label` as ", {
            "label_file": ...
        }
    if any(name.endswith(".tar") for name in files):
        return (
            f"{root} holds tar files: give one of them, or wds/{root} with a split such as 'val-{{0000..0003}}.tar'",
        )
    kinds = f"files that end in {', '.join(ENDINGS)}"
    several = f"nor do its {len(names)} folders" if names else "and no folders"
    return (f"{root} holds no photographs ({kinds}), {'nor does its one folder' if len(names) == 1 else several}",)
