"""Judging CLIP and SigLIP by which class name an image is most like."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch import nn
from torch.utils.data import DataLoader

from ...common.progress import progress
from ...common.text import counted, few, reason
from ...data.classes import Classes, english
from ...evaluate.zero_shot import PROMPT, ZeroShot, read_texts
from .early_files import FOLDERS
from .model import Subject
from .options import DataOptions


@dataclass(frozen=True)
class Names:
    """The class names that images are held against, in the order of the data's classes.

    prompt: the sentence around each name
    """

    names: tuple[str, ...]
    prompt: str
    texts: Any

    def on(self, model: nn.Module) -> nn.Module:
        """The model as a classifier of these names."""
        return ZeroShot(model, self.texts)

    @property
    def words(self) -> str:
        """How images are classified, in a sentence."""
        return f"zero-shot: each image is held against {counted(len(self.names), 'text')}, {self.prompt!r}"


def open_names(subject: Subject, data: DataOptions, loader: DataLoader) -> Names | None:
    """The names of `--class-names`, read by the model; None where none are given.

    Raises ValueError for a model that reads no texts, and for names that do not go with the data's classes.
    """
    if data.class_names is None:
        if data.prompt is not None:
            raise ValueError(f"--prompt {data.prompt!r} is the sentence around class names: give --class-names too")
        return None
    if data.bank is not None:
        raise ValueError(f"--bank {data.bank} is for nearest neighbours, and --class-names for texts: leave one out")
    dataset: Any = loader.dataset
    names, prompt = _names(data.class_names, dataset.classes, data.data), data.prompt or PROMPT
    with progress("reading the class names"):
        return Names(names, prompt, read_texts(subject.dense, names, prompt))


def on_names(names: Names | None) -> dict[str, Any]:
    """What `measure` judges of a model, where names are given."""
    return {} if names is None else {"on": names.on}


def names_figures(names: Names | None) -> dict[str, Any]:
    """The same for JSON."""
    return {} if names is None else {"class_names": list(names.names), "prompt": names.prompt}


def _names(given: str, classes: Classes, where: str) -> tuple[str, ...]:
    if given == FOLDERS:
        return _of_folders(classes, where)
    lines = read_names(given)
    by_folder = dict(map(_pair, lines))
    if classes.names and by_folder.keys() >= set(classes.names):
        return tuple(by_folder[folder] for folder in classes.names)
    if classes.names and len(lines) != len(classes.names):
        raise ValueError(
            f"--class-names {given} lists {counted(len(lines), 'name')}, and {where} has "
            f"{counted(len(classes.names), 'class', 'classes')} ({few(classes.names)}): give one for each, in their "
            "order, or lines `folder,name`"
        )
    return tuple(lines)


def _of_folders(classes: Classes, where: str) -> tuple[str, ...]:
    """The folders' names; of ImageNet's wnids the English ones."""
    if not classes.names:
        raise ValueError(f"--class-names {FOLDERS}: {where} has no class folders, give a file of names, one a line")
    return tuple(map(english, classes.names))


def read_names(given: str | Path) -> list[str]:
    """The names in a file, one a line. Raises ValueError for a file that cannot be read, or has fewer than two."""
    path = Path(given).expanduser()
    try:
        lines = [line.strip() for line in path.read_text(encoding="utf-8-sig").splitlines() if line.strip()]
    except (OSError, UnicodeDecodeError) as error:
        raise ValueError(f"--class-names {given} cannot be read: {reason(error)}") from error
    if len(lines) < 2:
        raise ValueError(f"--class-names {given} has {counted(len(lines), 'name')}: give two or more, one a line")
    return lines


def _pair(line: str) -> tuple[str, str]:
    """(folder, name) of a line with a tab, else a comma between them."""
    folder, _, name = line.partition("\t" if "\t" in line else ",")
    return folder.strip(), name.strip()
