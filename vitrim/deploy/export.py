"""`export`: a model as one file that runs elsewhere, checked against the model before it is there."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from ..backbones import find_family, library_of
from ..backbones.images import trouble_with
from ..common.files import check_new
from ..common.kinds_given import check_path
from ..common.order import check_order
from ..methods import Method
from ..runtime.model import ReducedViT, for_images, unwrap
from .formats import ENDINGS, format_of
from .int8 import check_int8
from .optimize import sharing
from .prepared import Prepared, about_model, as_pixels
from .writing import Exported, Job

__all__ = ["Exported", "export"]


def export(
    model: nn.Module,
    path: str | Path,
    *,
    images: Tensor | None = None,
    batch_size: int | None = None,
    preprocessing: bool = False,
    format: str | None = None,
    int8: str | None = None,
    calibration: Tensor | None = None,
    labels: Tensor | None = None,
    overwrite: bool = False,
) -> Exported:
    """Write a model, reduced or dense, as a file that runs without vitrim: `.onnx` for ONNX Runtime, `.xml` (and a
    `.bin` beside it) for OpenVINO, `.pt2` for PyTorch.

    images:        [b, 3, height, width] to check the file on, prepared as for the model; None: random ones
    batch_size:    the only size of batches that the file takes; None: any
    preprocessing: the file takes uint8 images [b, height, width, 3] and normalises them itself
    format:        "onnx", "openvino", "torch" or "aotinductor", which compiles; None: what the ending says
    int8:          "static" (ONNX, OpenVINO): products in int8, their ranges measured on `calibration`; "dynamic"
                   (ONNX): measured when the file runs; None: the file computes in float32
    calibration:   [n, 3, height, width], 32 or more, none of them among `images`
    labels:        [b] classes of `images`, with which an int8 file's accuracy is told
    overwrite:     replace a file that is there

    The file is written beside, run on the images, compared with the model, and only then gets its name. An int8 file is
    kept if it predicts the model's class for three in four images; what it has lost is in its metadata. Raises
    ValueError for a model that is not supported, a method whose token counts differ from image to image, an ending that
    is not known, a file that is there, a missing package or compiler, and where the file disagrees with the model:
    nothing is written then.

    Example:
        >>> fast = vitrim.reduce(model, "evit", keep=0.5).eval()
        >>> made = vitrim.export(fast, "fast.onnx", images=images)
        >>> made.input, made.difference < 1e-3, made.agreement
        (('batch', 3, 128, 128), True, 1.0)
    """
    check_order("vitrim.export", model, path, "path")
    check_path("path", path, "give the name of a file that ends in .onnx, .xml or .pt2")
    path = Path(path)
    check_file(path, overwrite)
    kind = format_of(path, format)
    kind.require()
    model = unwrap(model)
    dense = model.backbone if isinstance(model, ReducedViT) else model
    find_family(dense)  # refuses what is not supported
    check_counts(model)
    _check_batch(batch_size)
    check_int8(kind, int8, images, labels, calibration)
    example = _examples(dense, images)
    about: dict[str, Any] = about_model(model, dense, preprocessing, batch_size, example) | {"format": kind.name}
    bare = [for_images(sharing(each)).cpu().float().eval() for each in dict.fromkeys((model, dense))]
    taking = [Prepared(each, about["mean"], about["std"]).eval() if preprocessing else each for each in bare]
    if preprocessing:
        example = as_pixels(example, about)
        calibration = None if calibration is None else as_pixels(calibration, about)
    job = Job(kind, path, taking[0], taking[-1], about, batch_size, example, calibration, int8, labels)
    try:
        return job.quantised() if int8 else job.checked()
    except OSError as error:
        raise ValueError(f"{path} cannot be written: {error.strerror or error}; nothing was written") from error


def check_file(path: Path, overwrite: bool) -> None:
    """Raise ValueError where a file, or the second one that belongs to it, cannot be written or is there already."""
    check_new(path, overwrite, ENDINGS)
    for second in format_of(path, None).paths(path)[1:]:
        check_new(second, overwrite)


def _examples(dense: nn.Module, images: Tensor | None) -> Tensor:
    if images is not None:
        images = images.detach().cpu().float()
        trouble = trouble_with(images, sharing(dense).cpu().float())
        if trouble:
            raise ValueError(trouble)
        return images
    channels, height, width = library_of(dense).data_config(dense)["input_size"]
    size = library_of(dense).image_size(dense) or (height, width)
    return torch.randn(4, channels, *size, generator=torch.Generator().manual_seed(0))


def has_fixed_counts(method: Method) -> bool:
    """Whether all images of a batch keep as many tokens."""
    return not method.ragged or method.masked


def check_counts(model: nn.Module) -> None:
    """Raise ValueError for a method whose token counts differ from image to image."""
    for method in model.methods if isinstance(model, ReducedViT) else ():
        if not has_fixed_counts(method):
            way_out = 'adaptive="batch", or ' if "adaptive" in method.option_names() else ""
            raise ValueError(
                f"{method.name} keeps another number of tokens in each image, and a file has fixed ones: use {way_out}"
                "a method with fixed counts, such as evit or tome"
            )


def _check_batch(size: int | None) -> None:
    if size is not None and (isinstance(size, bool) or not isinstance(size, int) or size < 1):
        raise ValueError(f"batch_size={size!r}: give a whole number from 1, or None for batches of any size")
