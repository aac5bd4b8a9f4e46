"""The options that commands share, each group written once. tyro makes the command line from them."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal

from tyro.conf import arg


def hinted(hint: str):
    """What `--help` says about the default where the value itself says nothing."""
    return arg(help_behavior_hint=f"(default: {hint})")


@dataclass(kw_only=True)
class ModelOptions:
    """Which model."""

    model: Annotated[str | None, hinted("the saved folder's, if --checkpoint is one; else it must be given")] = None
    """timm's name of the model, such as deit_small_patch16_224"""
    checkpoint: Annotated[Path | None, hinted("timm's own pretrained weights")] = None
    """a timm state dict (.safetensors, or .pth without pickled code), or a folder written by save()"""
    image_size: Annotated[tuple[int, ...], hinted("the model's own")] = ()
    """side of the images in pixels, or height and width"""
    num_classes: Annotated[int | None, hinted("the model's own")] = None
    """classes of the checkpoint, where they are not the model's usual ones"""
    in_chans: Annotated[int | None, hinted("the model's own")] = None
    """channels of the images that the checkpoint takes, such as 1 for gray"""
    mean: Annotated[tuple[float, ...], hinted("the model's own")] = ()
    """what images are normalised with, a number for each channel"""
    std: Annotated[tuple[float, ...], hinted("the model's own")] = ()
    """what images are normalised with, a number for each channel"""


@dataclass(kw_only=True)
class DataOptions:
    """Which images."""

    data: str
    """a folder with one folder per class, a .tar, or a name that timm.data.create_dataset reads (hfds/..., wds/...)"""
    label_file: Path | None = None
    """labels of a flat folder: lines `file label`, or one label a line in sorted file order"""
    split: str | None = None
    """a folder below --data, or the split of a named data set"""
    root: Path | None = None
    """where a named data set is stored"""
    class_map: Annotated[Path | None, hinted("none: by the names")] = None
    """which class of the model each name is: a file with lines `name,index`, or JSON such as {"cat": 0, "dog": 1}"""
    limit_per_class: Annotated[int | None, hinted("all")] = None
    """only the first so many images of each class, by name"""
    limit: Annotated[int | None, hinted("all")] = None
    """only so many images, drawn at random by --seed, as many of each class as there can be"""
    crop_pct: Annotated[float | None, hinted("the model's own")] = None
    """share of the resized image that the centre crop keeps, in (0, 1]"""
    workers: Annotated[int | None, hinted("one for each processor, at most 8")] = None
    """processes that decode images; 0 decodes in this one"""


@dataclass(kw_only=True)
class RunOptions:
    """How to run it."""

    device: Annotated[str | None, hinted("cuda, then mps, then cpu: the first that is there")] = None
    """cpu, cuda, cuda:1 or mps"""
    dtype: Literal["float32", "bfloat16", "float16"] = "float32"
    """numbers to compute in; all but float32 by autocast, weights stay as they are"""
    batch_size: Annotated[int | None, hinted("16 on a CPU, 128 elsewhere")] = None
    """images at a time, for accuracy and for speed"""
    threads: Annotated[int | None, hinted("torch's own choice")] = None
    """CPU threads of torch"""
    rounds: int = 9
    """rounds in which the models are timed in turn; the median counts"""
    seed: int = 0
    """for methods that draw at random"""


@dataclass(kw_only=True)
class OutputOptions:
    """What else to write."""

    json: Annotated[str | None, hinted("none")] = None
    """file for all figures, as JSON; - for standard output, where nothing else is then printed"""
    wide: bool = False
    """every column of a table, however narrow the terminal"""
