"""Photographs for evaluation: found, labelled, decoded and prepared as the model's own configuration says."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import nn
from torch.utils.data import DataLoader, IterableDataset

from ..common.class_map import read_class_map
from ..common.errors import OptionError
from ..common.places import UNLABELLED as UNLABELLED_PLACES
from ..common.places import check_there, is_named
from ..common.text import counted, few
from ..common.unwrapping import innermost
from .choose import check_positive, choose
from .classes import Classes, LabelNames
from .config import carried_config, config_of, data_config
from .folders import flat_files
from .labels import classes_of_labels, read_labels
from .listed import FileList, is_listed, listed_files, several
from .matching import empty_are_classes, match_classes, tell_english
from .photographs import Batch, Photographs, StreamedPhotographs, Unreadable, collate
from .sources import Files, ReaderImages, Stream, TorchImages, find_source
from .unlabelled import UNLABELLED, all_below, is_flat

__all__ = [
    "Batch",
    "Photographs",
    "StreamedPhotographs",
    "Unreadable",
    "collate",
    "data_config",
    "open_dataset",
    "open_loader",
]


@dataclass(frozen=True)
class _Knowledge:
    """About classes: how many the model has, the names that it carries, and a class map, if one is given."""

    num_classes: int
    label_names: LabelNames
    class_map: dict[str, int] | None


def open_dataset(
    path: str | Path | Sequence[str | Path],
    model_or_cfg: nn.Module | dict,
    *,
    crop_pct: float | None = None,
    img_size: int | tuple[int, int] | None = None,
    labels: bool | None = True,
    label_file: str | Path | None = None,
    split: str | None = None,
    root: str | Path | None = None,
    limit_per_class: int | None = None,
    limit: int | None = None,
    seed: int = 0,
    class_map: str | Path | Mapping[str, int] | None = None,
) -> Photographs | StreamedPhotographs:
    """Open photographs for a model, prepared as its `pretrained_cfg` says.

    path: a folder of class folders; a flat folder (with `label_file`); a .tar file; or a name that
          `timm.data.create_dataset` reads: `hfds/`, `hfids/`, `tfds/`, `wds/`, `torch/`. Without labels also a
          pattern (`photos/*.jpg`), a text file with the name of a photograph on each line, or a single photograph; and
          with labels=False a list of photographs, folders and patterns
    model_or_cfg: a timm model, a reduced one, `vitrim.for_images` of one of transformers, or a timm `pretrained_cfg`
    crop_pct: share of the image's side that the centre crop keeps, in (0, 1]; None: the model's own
    img_size: side in pixels, or (height, width); None: the model's own
    labels: False: take every photograph below the folder, without labels; None: so for what says nothing of classes (a
          folder with photographs but no class folders, a list), where no `label_file` is given either
    label_file: labels for a flat folder (`read_labels` says of which forms)
    split, root: a folder below `path`, or the split of a named data set ("validation"), and where it is stored
    limit_per_class: keep at most so many photographs of each class, the first by sorted name
    limit, seed: keep at most so many of these, drawn at random, evenly from the classes; of a stream the first
    class_map: the model's class index of each name, as a dict or a file (`read_class_map` says of which forms)

    Labels become the model's class indices by `class_map`, by the model's own label names, by ImageNet wnid, by
    ImageNet's English names (a line on standard error says as which classes they are read), or by natural order where
    the counts agree (`dataset.classes.rule` says which). A folder without a photograph is no class.
    Raises ValueError for what is no data set, holds no photograph, or has classes that do not match the model.
    """
    check_positive(limit_per_class=limit_per_class, limit=limit)
    if isinstance(path, nn.Module):
        raise ValueError("the photographs come first: give vitrim.data.open_dataset(path, model)")
    if not isinstance(path, (str, Path)):
        if len(path) != 1:
            return _of_several(
                path, split, root, labels, _asked(model_or_cfg, crop_pct, img_size, None)[0], limit, seed
            )
        path = path[0]
    config, known = _asked(model_or_cfg, crop_pct, img_size, class_map)
    if labels is False or (labels is None and label_file is None and is_flat(path, split)):
        _need_labels(path, label_file=label_file, class_map=class_map, limit_per_class=limit_per_class)
        source, classes = _unlabelled(path, root, split, limit), UNLABELLED
    elif label_file is not None:
        source, classes = _labelled(path, split, label_file, known)
    else:
        source, classes = _classes_of(find_source(path, root, split, limit), known, str(path))
    tell_english(classes, known.num_classes, str(label_file or path))
    if isinstance(source, Stream):
        return _stream(source, classes, config, limit_per_class, limit)
    known_labels = None if classes.unlabelled else source.labels
    return Photographs(source, classes, config, *choose(len(source), known_labels, limit_per_class, limit, seed))


def _of_several(
    places: Sequence[str | Path], split: Any, root: Any, labels: Any, config: dict, limit: int | None, seed: int
) -> Photographs:
    """Photographs named by several words."""
    if labels is not False:
        raise OptionError("several places are read without labels: give ", {"labels": False}, ", or one of them")
    for name, value in (("split", split), ("root", root)):
        if value is not None:
            raise OptionError({name: value}, " goes with one place: give one, or leave it out")
    source = several(places)
    return Photographs(source, UNLABELLED, config, *choose(len(source), None, None, limit, seed))


def _need_labels(path: str | Path, **given: Any) -> None:
    """Raise ValueError for arguments that are about labels, where there are none."""
    wrong = [name for name, value in given.items() if value is not None]
    if wrong:
        raise OptionError(f"{path} is read without labels, and ", {wrong[0]: ...}, " is about labels: leave it out")


def _unlabelled(
    path: str | Path, root: str | Path | None, split: str | None, limit: int | None
) -> Files | FileList | ReaderImages | TorchImages | Stream:
    """What `path` names, whatever labels there are. A folder is taken with all below it, in any shape."""
    check_there(path, UNLABELLED_PLACES)
    local = Path(path).expanduser()
    if is_listed(path):
        return listed_files(path)
    if local.is_file() or is_named(path):
        return find_source(path, root, split, limit, labelled=False)
    return all_below(local, split)


def _asked(
    model_or_cfg: nn.Module | dict, crop_pct: float | None, img_size: Any, class_map: Any
) -> tuple[dict, _Knowledge]:
    """How the model wants its images, and what it knows of its classes."""
    model = innermost(model_or_cfg) if isinstance(model_or_cfg, nn.Module) else None
    cfg: Any = carried_config(model) if model is not None else model_or_cfg
    num_classes = getattr(model, "num_classes", cfg.get("num_classes", 0))
    given = None if class_map is None else read_class_map(class_map, num_classes)
    known = _Knowledge(num_classes, cfg.get("label_names"), given)
    return config_of(model, cfg, crop_pct, img_size), known


def _labelled(path: str | Path, split: str | None, label_file: str | Path, known: _Knowledge) -> tuple[Files, Classes]:
    folder, files, left_out = flat_files(path, split)
    texts, ordered, absent = read_labels(label_file, files)
    labels, classes = classes_of_labels(
        texts, ordered, known.num_classes, known.label_names, label_file, known.class_map
    )
    if absent:
        left_out["labels of files that are not there"] = absent
    samples = [(str(folder / file), label) for file, label in zip(files, labels, strict=True)]
    return Files(folder, samples, None, left_out), classes


def _classes_of(
    source: Files | ReaderImages | TorchImages | Stream, known: _Knowledge, where: str
) -> tuple[Files | ReaderImages | TorchImages | Stream, Classes]:
    """The classes, and the source with its labels numbered as they are."""
    if source.names is None and known.class_map is not None:
        raise OptionError(f"{where} stores class indices and no names: leave out ", {"class_map": ...})
    if source.names is None:
        return source, Classes((), (), "integer labels as stored, taken as class indices from 0")
    names, empty, about = source.names, source.empty, (known.num_classes, known.label_names)
    if isinstance(source, Files) and known.class_map is None and empty_are_classes(names, empty, *about):
        source = source.with_empty()
        classes = match_classes(source.names or [], *about, where)
        words = f"{classes.rule}, {counted(len(empty), 'folder')} without a photograph among them: {few(empty)}"
        return source, replace(classes, rule=words)
    return source, match_classes(names, *about, where, known.class_map, empty)


def _stream(
    source: Stream, classes: Classes, config: dict, per_class: int | None, limit: int | None
) -> StreamedPhotographs:
    if per_class is not None:
        raise OptionError(
            f"{source.where} is read from start to end: for ", {"limit_per_class": per_class}, " give ", {"limit": ...}
        )
    return StreamedPhotographs(source, classes, config, limit)


def open_loader(
    dataset: Photographs | StreamedPhotographs,
    batch_size: int = 64,
    workers: int | None = None,
    device: str | torch.device = "cpu",
) -> DataLoader:
    """Batches [b, c, h, w] in the data set's own order, the same for any number of workers.

    batch_size: photographs in a batch
    workers:    processes that decode; None: one for each processor this process may use, at most 8; 0: this process
                decodes. A stream has one at most, so that its order holds
    device:     where the model runs: for "cuda" batches are made in pinned memory

    Raises ValueError for a batch size below 1 and workers below 0.

    Example:
        >>> from vitrim.data import open_dataset, open_loader
        >>> [len(batch.images) for batch in open_loader(open_dataset("photos", model), batch_size=6, workers=0)]
        [6, 2]
    """
    if batch_size < 1:
        raise OptionError({"batch_size": batch_size}, ": give a whole number from 1")
    workers = workers_of(workers)
    batches = 1 if isinstance(dataset, IterableDataset) else -(-len(dataset) // batch_size)
    return DataLoader(
        dataset,
        batch_size,
        num_workers=min(workers, batches),
        collate_fn=collate,
        pin_memory=torch.device(device).type == "cuda",
    )


def processors() -> int:
    """How many this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def workers_of(workers: int | None) -> int:
    """How many processes decode: as given, else one for each processor that this process may use, at most 8.

    Raises ValueError below 0.
    """
    if workers is None:
        return min(8, processors())
    if workers < 0:
        raise OptionError({"workers": workers}, ": give a whole number from 0")
    return workers
