"""Photographs for evaluation: found, labelled, decoded and prepared as the model's own configuration says."""

import os
from pathlib import Path

import torch
from timm.data import resolve_data_config
from timm.layers import PatchEmbed
from timm.utils import unwrap_model
from torch import nn
from torch.utils.data import DataLoader, IterableDataset

from .classes import Classes, classes_of_labels, match_classes, read_labels
from .photographs import Batch, Photographs, StreamedPhotographs, Unreadable, collate
from .sources import Files, ReaderImages, Stream, TorchImages, find_source, flat_files

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


def open_dataset(
    path: str | Path,
    model_or_cfg: nn.Module | dict,
    *,
    crop_pct: float | None = None,
    img_size: int | tuple[int, int] | None = None,
    label_file: str | Path | None = None,
    split: str | None = None,
    root: str | Path | None = None,
    limit_per_class: int | None = None,
    limit: int | None = None,
) -> Photographs | StreamedPhotographs:
    """Open photographs for a model, prepared as its `pretrained_cfg` says.

    Args:
        path: a folder with one folder per class; a flat folder (with `label_file`); a .tar file; or a name that
            `timm.data.create_dataset` reads: `hfds/`, `hfids/`, `tfds/`, `wds/`, `torch/`.
        model_or_cfg: a timm model, a reduced one, or a timm `pretrained_cfg`.
        crop_pct: share of the resized image that the centre crop keeps, in (0, 1]; the model's own if None.
        img_size: side in pixels, or (height, width); the model's own if None.
        label_file: labels for a flat folder: lines `file label` or `file,label` (Kaggle's LOC_val_solution.csv among
            them), or one label a line in sorted file order. A label is a wnid, a class name or a class index from 0.
            The ImageNet devkit's ILSVRC2012_validation_ground_truth.txt needs the devkit's meta.mat beside it.
        split: a folder below `path`, or the split of a named data set ("validation" if None).
        root: where a named data set is stored.
        limit_per_class: the first so many photographs of each class, by sorted name.
        limit: the first so many photographs of what is left.

    Labels become the model's class indices by its label names, by ImageNet wnid, or by natural order where the counts
    agree (`dataset.classes.rule` says which). Raises ValueError for what is no data set, holds no photograph, or has
    classes that do not match the model.
    """
    _positive(limit_per_class=limit_per_class, limit=limit)
    model = unwrap_model(model_or_cfg) if isinstance(model_or_cfg, nn.Module) else None
    cfg = (getattr(model, "pretrained_cfg", None) or {}) if model is not None else model_or_cfg
    num_classes = getattr(model, "num_classes", cfg.get("num_classes", 0))
    config = _data_config(model, cfg, crop_pct, img_size)
    names = cfg.get("label_names")
    if label_file is not None:
        source, classes = _labelled(path, split, label_file, num_classes, names)
    else:
        source = find_source(path, root, split, limit)
        classes = _classes_of(source, num_classes, names, str(path))
    if isinstance(source, Stream):
        return _stream(source, classes, config, limit_per_class, limit)
    return Photographs(source, classes, config, _choose(source, limit_per_class, limit))


def data_config(model: nn.Module, img_size: int | tuple[int, int] | None = None) -> dict:
    """How a model wants its images: timm's data configuration (size, mean, std, interpolation, crop)."""
    model = unwrap_model(model)
    return _data_config(model, getattr(model, "pretrained_cfg", None) or {}, None, img_size)


def _labelled(
    path: str | Path, split: str | None, label_file: str | Path, num_classes: int, label_names: list[str] | dict | None
) -> tuple[Files, Classes]:
    folder, files = flat_files(path, split)
    texts, ordered = read_labels(label_file, files)
    labels, classes = classes_of_labels(texts, ordered, num_classes, label_names, label_file)
    return Files(
        folder, [(str(folder / file), label) for file, label in zip(files, labels, strict=True)], None
    ), classes


def _classes_of(
    source: Files | ReaderImages | TorchImages | Stream,
    num_classes: int,
    label_names: list[str] | dict | None,
    where: str,
) -> Classes:
    if source.names is None:
        return Classes((), (), "integer labels as stored, taken as class indices from 0")
    return match_classes(source.names, num_classes, label_names, where)


def _stream(
    source: Stream, classes: Classes, config: dict, per_class: int | None, limit: int | None
) -> StreamedPhotographs:
    if per_class is not None:
        raise ValueError(f"{source.where} is read from start to end: limit_per_class needs random access; use limit")
    return StreamedPhotographs(source, classes, config, limit)


def _positive(**limits: int | None) -> None:
    for name, value in limits.items():
        if value is not None and value < 1:
            raise ValueError(f"{name} is {value}: give a whole number from 1")


def _choose(source: Files | ReaderImages | TorchImages, per_class: int | None, limit: int | None) -> list[int] | None:
    chosen = None
    if per_class is not None:
        seen: dict[int, int] = {}
        chosen = []
        for place, label in enumerate(source.labels()):
            seen[label] = seen.get(label, 0) + 1
            if seen[label] <= per_class:
                chosen.append(place)
    if limit is not None:
        chosen = (chosen if chosen is not None else list(range(len(source))))[:limit]
    return chosen


def _data_config(
    model: nn.Module | None, cfg: dict, crop_pct: float | None, img_size: int | tuple[int, int] | None
) -> dict:
    """timm's data configuration; the model's patch embedding knows its size better than its `pretrained_cfg`."""
    if crop_pct is not None and not 0 < crop_pct <= 1:
        raise ValueError(f"crop_pct is {crop_pct}: give a share in (0, 1]")
    embed = (
        next((module for module in model.modules() if isinstance(module, PatchEmbed)), None)
        if model is not None
        else None
    )
    own = getattr(embed, "img_size", None)
    size = (img_size, img_size) if isinstance(img_size, int) else img_size or own
    if size is not None and min(size) < 1:
        raise ValueError(f"img_size is {img_size}: give pixels, from 1")
    if own and embed.strict_img_size and tuple(size) != tuple(own):
        raise ValueError(
            f"the model takes {own[0]} x {own[1]} pixels and img_size asks for {size[0]} x {size[1]}: "
            f"create the model with img_size={img_size} or dynamic_img_size=True"
        )
    # LV-ViT's stem has convolutions before its projection.
    first = getattr(embed, "conv1", getattr(embed, "proj", None))
    channels = first.in_channels if embed else cfg.get("input_size", (3,))[0]
    args = {"crop_pct": crop_pct, "input_size": (channels, *size) if size else None, "in_chans": channels}
    config = resolve_data_config(args, pretrained_cfg=cfg, model=model)
    if channels not in (1, 3) or len(config["mean"]) != channels:
        raise ValueError(
            f"the model takes {channels} channels and its mean has {len(config['mean'])}: photographs are RGB, or gray "
            "for a model with one channel and one mean"
        )
    return config


def open_loader(
    dataset: Photographs | StreamedPhotographs,
    batch_size: int = 64,
    workers: int | None = None,
    device: str | torch.device = "cpu",
) -> DataLoader:
    """Batches in the data set's own order, the same for any number of workers.

    `workers` decode beside the model: one for each processor this process may use, at most 8, if None; 0 decodes in
    this process. A stream has one at most, so that its order holds. Raises ValueError for a batch size below 1.
    """
    if batch_size < 1:
        raise ValueError(f"batch_size is {batch_size}: give a whole number from 1")
    if workers is None:
        workers = min(8, len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1)
    if workers < 0:
        raise ValueError(f"workers is {workers}: give a whole number from 0")
    batches = 1 if isinstance(dataset, IterableDataset) else -(-len(dataset) // batch_size)
    return DataLoader(
        dataset,
        batch_size,
        num_workers=min(workers, batches),
        collate_fn=collate,
        pin_memory=torch.device(device).type == "cuda",
    )
