"""Files in int8: what they need, and what they have lost, judged on photographs before they are kept."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict, dataclass
from typing import Any

import torch
from torch import Tensor, nn

from ..common.errors import OptionError
from ..evaluate.intervals import wilson_interval
from .checking import logits_of
from .formats import FORMATS, Format

CALIBRATION = 128  # photographs; DeiT-Ti with EViT agrees on 72 % of photographs after 16, on 88 % after 128
LEAST_CALIBRATION = 32
# Share of photographs with the model's own class. What int8 costs is not an error, but a file below this is broken:
# good settings reach 0.85 and more on DeiT-Ti at half its cost, and far more on larger models.
LEAST_AGREEMENT = 0.75


@dataclass(frozen=True)
class Int8:
    """What an int8 file has lost. Figures are percent of the images; what does not apply is None.

    how:            "static" or "dynamic"
    calibrated_on:  images that the ranges of a static file are from
    agreement:      the file and the model that it was made from predict the same class
    dense_before, dense_after: that model, and the file, predict the class that the dense model predicts
    top1_before, top1_after:   they are right, each with its 95 % interval; None without labels
    """

    how: str
    calibrated_on: int
    images: int
    agreement: float
    dense_before: float
    dense_after: float
    top1_before: float | None = None
    top1_after: float | None = None
    top1_before_interval: tuple[float, float] | None = None
    top1_after_interval: tuple[float, float] | None = None

    def as_dict(self) -> dict[str, Any]:
        """In plain values, without what does not apply."""
        return {key: value for key, value in asdict(self).items() if value is not None}


def check_int8(
    kind: Format, how: str | None, images: Tensor | None, labels: Tensor | None, calibration: Tensor | None
) -> None:
    """Raise ValueError for what cannot be: before anything is written."""
    if how is None:
        if calibration is not None:
            raise OptionError({"calibration": ...}, " is for ", {"int8": "static"}, ": give that too, or leave it out")
        return
    check_way(kind, how)
    if images is None:
        raise OptionError({"int8": how}, " is judged on photographs before the file is kept: give ", {"images": ...})
    if labels is not None and len(labels) != len(images):
        raise ValueError(f"{len(labels)} labels for {len(images)} images: give one for each, or none")
    if how == "dynamic" and calibration is not None:
        raise OptionError({"int8": how}, " needs no ", {"calibration": ...}, ": leave it out")
    if how == "static":
        _check_calibration(calibration, images)


def check_way(kind: Format, how: str) -> None:
    """Raise ValueError where the format has no such int8."""
    if how not in kind.int8:
        known = "; ".join(f"{each.ending} {' or '.join(each.int8)}" for each in FORMATS.values() if each.int8)
        raise OptionError({"int8": how}, f" is not for {kind.title}: there is {known}")


def _check_calibration(calibration: Tensor | None, images: Tensor) -> None:
    if calibration is None:
        raise OptionError(
            {"int8": "static"}, " measures ranges on photographs: give ", {"calibration": ...}, ", or ",
            {"int8": "dynamic"},
        )  # fmt: skip
    check_enough(len(calibration))
    if both := len(calibration) - len(unseen(calibration, images)):
        raise OptionError(
            f"{both} of the images to calibrate on are among those to judge by: give others as ", {"calibration": ...}
        )


def check_enough(count: int) -> None:
    """Raise ValueError for too few images to calibrate on."""
    if count < LEAST_CALIBRATION:
        raise OptionError(
            {"calibration": ...}, f" has {count} images to calibrate on: give {LEAST_CALIBRATION} or more; "
            f"{CALIBRATION} are a good number"
        )  # fmt: skip


def unseen(calibration: Tensor, images: Tensor) -> Tensor:
    """The images to calibrate on without those that are judged, whatever their files are called."""
    judged = {image.numpy().tobytes() for image in images}
    return calibration[[image.numpy().tobytes() not in judged for image in calibration]]


@torch.no_grad()
def judge(
    run: Callable[[Tensor], Tensor],
    models: tuple[nn.Module, nn.Module],
    images: Tensor,
    labels: Tensor | None,
    size: int | None,
    how: str,
    calibrated_on: int,
) -> Int8:
    """What the file has lost. models: the one it was made from, and the dense one; size: of the file's batches

    Raises ValueError for outputs that are no numbers, and where too few classes are the model's.
    """
    after, before, dense = (logits_of(each, images, size) for each in (run, *models))
    if not after.isfinite().all():
        raise ValueError("the int8 file gives NaN or infinity; nothing was written")
    classes = [logits.argmax(dim=1) for logits in (after, before, dense)]
    agreement = float((classes[0] == classes[1]).float().mean())
    if agreement < LEAST_AGREEMENT:
        raise ValueError(
            f"the int8 file predicts the model's class for {100 * agreement:.0f} % of {len(images)} images, and "
            f"{100 * LEAST_AGREEMENT:.0f} % is the least that is kept; nothing was written. Calibrate on more images "
            "like these, or try another --int8 or --macs"
        )
    before_after = [_percent(found == classes[2]) for found in (classes[1], classes[0])]
    right = {} if labels is None else _accuracies(classes[1] == labels, classes[0] == labels)
    return Int8(how, calibrated_on, len(images), 100 * agreement, before_after[0], before_after[1], **right)


def _accuracies(before: Tensor, after: Tensor) -> dict[str, Any]:
    found = {}
    for name, hits in (("top1_before", before), ("top1_after", after)):
        low, high = wilson_interval(int(hits.sum()), len(hits))
        found |= {name: _percent(hits), f"{name}_interval": (100 * low, 100 * high)}
    return found


def _percent(hits: Tensor) -> float:
    return 100 * float(hits.float().mean())
