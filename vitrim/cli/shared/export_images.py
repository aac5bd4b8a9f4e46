"""The images that an exported file is checked on, and those on which int8 measures its ranges."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.utils.data import DataLoader

from ...common.progress import progress
from ...data.loading import open_dataset, open_loader
from ...deploy.formats import Format
from ...deploy.int8 import CALIBRATION, LEAST_CALIBRATION, check_way, unseen
from ...evaluate.timing import as_device
from .measure import Setting, open_images
from .model import Subject
from .options import DataOptions

CHECKED, JUDGED = 32, 256  # images: to find an error few are enough, to tell what int8 costs they are not


@dataclass(frozen=True)
class ExportImages:
    """images, labels: of --data; calibration: of --calibration. As `vitrim.export` takes them."""

    images: Tensor | None = None
    labels: Tensor | None = None
    calibration: Tensor | None = None


def check_images(kind: Format, file: Any) -> None:
    """Raise ValueError for options that do not go together, before the model is prepared."""
    if file.data is None and file.limit is not None:
        raise ValueError(f"--limit {file.limit} is for images of --data: give that too")
    if file.int8 is None:
        if file.calibration is not None:
            raise ValueError(f"--calibration {file.calibration} is for --int8 static: give that too, or leave it out")
        return
    check_way(kind, file.int8)
    if file.data is None:
        raise ValueError(f"--int8 {file.int8} is judged on photographs before the file is kept: give --data")
    if file.int8 == "dynamic" and file.calibration is not None:
        raise ValueError(f"--int8 dynamic measures nothing beforehand: leave out --calibration {file.calibration}")
    if file.int8 == "static" and file.calibration is None:
        raise ValueError("--int8 static measures ranges on photographs: give --calibration, or --int8 dynamic")


def open_export_images(subject: Subject, file: Any) -> ExportImages:
    """What the options name. Raises ValueError for what is no data set, and for too few images to calibrate on."""
    if file.data is None:
        return ExportImages()
    data = DataOptions(data=file.data, limit=(JUDGED if file.int8 else CHECKED) if file.limit is None else file.limit)
    images, labels = read_all(open_images(subject, data, Setting(as_device("cpu"), "float32", 32, 1, file.seed)))
    if file.calibration is None:
        return ExportImages(images, labels if file.int8 else None)
    with progress("looking for images to calibrate on"):
        wanted = CALIBRATION + len(images)  # as many as may be among those
        dataset = open_dataset(file.calibration, subject.for_images, labels=False, limit=wanted, seed=file.seed)
    found, _ = read_all(open_loader(dataset, 32))
    left = unseen(found, images)[:CALIBRATION]
    if len(left) < LEAST_CALIBRATION:
        raise ValueError(
            f"--calibration {file.calibration} has {len(left)} images that are not judged: give a folder with "
            f"{LEAST_CALIBRATION} or more ({CALIBRATION} are used), or judge fewer with --limit"
        )
    return ExportImages(images, labels, left)


def read_all(loader: DataLoader) -> tuple[Tensor, Tensor | None]:
    """Images and labels of all batches. Raises ValueError where no image can be read."""
    batches = [batch for batch in loader if len(batch[0])]
    if not batches:
        raise ValueError("none of the images can be read")
    images, labels = zip(*[batch[:2] for batch in batches], strict=True)
    return torch.cat(images), None if labels[0] is None else torch.cat(labels)
