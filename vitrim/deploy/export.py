"""`export`: a model as one file that runs elsewhere, checked against the model before it is there."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from .._version import __version__
from ..backbones import find_family, library_of
from ..common.files import check_new
from ..common.whole import Beside
from ..runtime.describing import methods_config
from ..runtime.model import ReducedViT, unwrap
from ..runtime.profile import profile
from .formats import FORMATS, Format, record
from .optimize import sharing

TOLERANCE = 1e-3  # of the largest logit of an image
STRAYS = 0.1  # share of images whose decisions may fall the other way, between scores that are equal up to rounding


@dataclass(frozen=True)
class Exported:
    """What `export` has written, and how it compares with the model.

    difference: the largest difference of a logit, over the images that stay within the tolerance
    strays:     images beyond it: two scores were equal up to rounding, and another token was kept
    agreement:  share of the images with the same class
    """

    path: Path
    format: str
    input: tuple[int | str, ...]
    bytes: int
    images: int
    difference: float
    strays: int
    agreement: float


class Prepared(nn.Module):
    """A model with the last steps of its preprocessing: uint8 images [b, height, width, 3] to logits [b, k]."""

    mean: Tensor
    std: Tensor

    def __init__(self, model: nn.Module, mean: Sequence[float], std: Sequence[float]):
        super().__init__()
        self.model = model
        self.register_buffer("mean", torch.tensor(mean).view(1, -1, 1, 1))
        self.register_buffer("std", torch.tensor(std).view(1, -1, 1, 1))

    def forward(self, images: Tensor) -> Tensor:
        x = images.permute(0, 3, 1, 2).float() / 255
        return self.model((x - self.mean) / self.std)


def export(
    model: nn.Module,
    path: str | Path,
    *,
    images: Tensor | None = None,
    batch_size: int | None = None,
    preprocessing: bool = False,
    overwrite: bool = False,
) -> Exported:
    """Write a model, reduced or dense, as one file: `.onnx` for ONNX Runtime, `.pt2` for PyTorch without vitrim.

    images:        [b, 3, height, width] to check the file on, prepared as for the model; None: random ones
    batch_size:    the only size of batches that the file takes; None: any
    preprocessing: the file takes uint8 images [b, height, width, 3] and normalises them itself
    overwrite:     replace a file that is there

    The file is written beside, run on the images, compared with the model, and only then gets its name. Raises
    ValueError for a model that is not supported, a method whose token counts differ from image to image, an ending that
    is not known, a file that is there, a missing package, and where the file disagrees with the model: nothing is
    written then.

    Example:
        >>> fast = vitrim.reduce(model, "evit", keep=0.5).eval()
        >>> made = vitrim.export(fast, "fast.onnx", images=images)
        >>> made.input, made.difference < 1e-3, made.agreement
        (('batch', 3, 128, 128), True, 1.0)
    """
    path = Path(path)
    check_new(path, overwrite, tuple(FORMATS))
    kind = FORMATS[path.suffix.lower()]
    kind.require()
    model = unwrap(model)
    dense = model.backbone if isinstance(model, ReducedViT) else model
    find_family(dense)  # refuses what is not supported
    _check_counts(model)
    _check_batch(batch_size)
    bare = sharing(model).cpu().float().eval()
    example = _examples(dense, images)
    about = _about(model, dense, preprocessing, batch_size, example)
    made = Prepared(bare, about["mean"], about["std"]).eval() if preprocessing else bare
    given = _as_pixels(example, about) if preprocessing else example
    return _write(kind, path, made, given, about, batch_size)


def _write(kind: Format, path: Path, model: nn.Module, images: Tensor, about: dict[str, Any], size: int | None):
    # Not the images themselves: a .pt2 file holds its example, and whoever gets the file would have them.
    first = torch.zeros_like(_batch(images, 2 if size is None else size))
    program = record(model, first, any_batch=size is None)
    try:
        with Beside(path) as beside:
            kind.write(program, first, about, beside.file)
            beside.sync()
            compared = _compare(kind.open(beside.name), model, images, size)
            beside.publish()
    except OSError as error:
        raise ValueError(f"{path} cannot be written: {error.strerror or error}; nothing was written") from error
    shape = ("batch" if size is None else size, *images.shape[1:])
    return Exported(path, kind.name, shape, path.stat().st_size, len(images), *compared)


@torch.no_grad()
def _compare(run: Any, model: nn.Module, images: Tensor, size: int | None) -> tuple[float, int, float]:
    """Largest difference within the tolerance, images beyond it, share with the same class."""
    pairs = [(run(part), model(part)) for part in _parts(images, size)]
    found, wanted = (torch.cat(logits)[: len(images)].flatten(1).float() for logits in zip(*pairs, strict=True))
    off = (found - wanted).abs().amax(dim=1)
    strays = ~(off <= TOLERANCE * wanted.abs().amax(dim=1).clamp(min=1e-6))  # NaN is one, too
    if strays.float().mean() > STRAYS:
        raise ValueError(
            f"the exported file disagrees with the model: by up to {off.max():.3g} in a logit, on {int(strays.sum())} "
            f"of {len(images)} images; nothing was written"
        )
    close = off[~strays]
    same = found.argmax(dim=1) == wanted.argmax(dim=1)
    return float(close.max()) if len(close) else 0.0, int(strays.sum()), float(same.float().mean())


def _parts(images: Tensor, size: int | None) -> list[Tensor]:
    """Batches of the size that the file takes; of any size, one image alone and then eight at a time."""
    if size is None:
        return [images[:1], *images[1:].split(8)] if len(images) > 1 else [images]
    return [_batch(part, size) for part in images.split(size)]


def _batch(images: Tensor, size: int) -> Tensor:
    """The first `size` images, repeated where there are fewer."""
    return images.repeat(-(-size // len(images)), *[1] * (images.dim() - 1))[:size].contiguous()


def _examples(dense: nn.Module, images: Tensor | None) -> Tensor:
    if images is not None:
        return images.detach().cpu().float()
    channels, height, width = library_of(dense).data_config(dense)["input_size"]
    size = library_of(dense).image_size(dense) or (height, width)
    return torch.randn(4, channels, *size, generator=torch.Generator().manual_seed(0))


def _as_pixels(images: Tensor, about: dict[str, Any]) -> Tensor:
    """The uint8 pixels [b, height, width, 3] that prepared images come from."""
    mean, std = (torch.tensor(about[key]).view(1, -1, 1, 1) for key in ("mean", "std"))
    pixels = ((images * std + mean) * 255).round().clamp(0, 255).to(torch.uint8)
    return pixels.permute(0, 2, 3, 1).contiguous()


def _about(model: nn.Module, dense: nn.Module, preprocessing: bool, size: int | None, images: Tensor) -> dict[str, Any]:
    """What the file says of itself, in plain values."""
    library = library_of(dense)
    height, width = images.shape[-2:]
    data, cost = library.data_config(dense), profile(model, (height, width))
    return {
        "model": library.architecture(dense) or type(dense).__name__,
        "methods": methods_config(model) if isinstance(model, ReducedViT) else [],
        "output": "features" if library.gives_features(dense) else "logits",
        "gmacs": cost.gmacs,
        "dense_gmacs": cost.dense_gmacs,
        "preprocessing": preprocessing,
        "batch_size": size or "any",
        **{key: _plain(data[key]) for key in ("mean", "std", "interpolation", "crop_pct", "crop_mode")},
        "label_names": library.label_names(dense),
        "vitrim": __version__,
    }


def _plain(value: Any) -> Any:
    return [float(item) for item in value] if isinstance(value, (tuple, list)) else value


def _check_counts(model: nn.Module) -> None:
    for method in model.methods if isinstance(model, ReducedViT) else ():
        if method.ragged and not method.masked:
            way_out = 'adaptive="batch", or ' if "adaptive" in method.option_names() else ""
            raise ValueError(
                f"{method.name} keeps another number of tokens in each image, and a file has fixed ones: use {way_out}"
                "a method with fixed counts, such as evit or tome"
            )


def _check_batch(size: int | None) -> None:
    if size is not None and (isinstance(size, bool) or not isinstance(size, int) or size < 1):
        raise ValueError(f"batch_size={size!r}: give a whole number from 1, or None for batches of any size")
