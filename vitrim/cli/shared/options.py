"""The options that commands share, each group written once, as data."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from .spec import option, required

PRECISIONS = ("float32", "bfloat16", "float16")
MODELS_OWN = "the model's own"
CLASSES_OWN = "the model's or ImageNet's names, or by order"


@dataclass(kw_only=True)
class ModelOptions:
    """Model"""

    model: str | None = option(
        "the model: timm's name, such as deit_small_patch16_224; of transformers hf:NAME or hf:FOLDER", common=True
    )
    checkpoint: Path | None = option(
        "weights: a timm state dict (.safetensors, .pth), or a folder that save() wrote",
        shown="timm's own pretrained weights",
        common=True,
    )
    image_size: tuple[int, ...] = option("side of the images in pixels, or height and width", (), shown=MODELS_OWN)
    num_classes: int | None = option("number of classes of the checkpoint, where it is unusual", shown=MODELS_OWN)
    in_chans: int | None = option("channels of the images, such as 1 for gray", shown=MODELS_OWN)
    mean: tuple[float, ...] = option("mean of the training images, a number for each channel", (), shown=MODELS_OWN)
    std: tuple[float, ...] = option("standard deviation, a number for each channel", (), shown=MODELS_OWN)


@dataclass(kw_only=True)
class DataOptions:
    """Images"""

    data: str = required(
        "a folder with one folder per class, or of images without labels, a .tar, or a name of timm's (hfds/...)",
        metavar="PATH",
    )
    label_file: Path | None = option("labels of a flat folder: lines `file label`, or one label a line")
    split: str | None = option("a folder below --data, or the split of a named data set")
    root: Path | None = option("where a named data set is stored")
    class_map: Path | None = option(
        "a file with the class of each folder: lines `name,index`",
        shown=CLASSES_OWN,
        common=True,
    )
    bank: str | None = option(
        "labelled images among which nearest neighbours are sought, for models without a classifier",
        shown="the judged images, each without itself",
    )
    class_names: str | None = option(
        "for CLIP and SigLIP: judge by which of these names an image is like; `folders`, or a file, one name a line",
        metavar="FILE",
    )
    prompt: str | None = option("the sentence around each class name", shown="This is a photo of {}.")
    limit_per_class: int | None = option("use the first N images of each class", shown="all")
    limit: int | None = option("use N images, drawn at random, evenly over the classes", shown="all", common=True)
    crop_pct: float | None = option("share of the resized image that the centre crop keeps", shown=MODELS_OWN)
    workers: int | None = option("processes that decode images", shown="one for each processor, at most 8")


@dataclass(kw_only=True)
class RunOptions:
    """Run"""

    device: str | None = option("cpu, cuda, cuda:1 or mps", shown="the fastest that is there", common=True)
    precision: str = option("numbers to compute in", "float32", choices=PRECISIONS, common=True)
    batch_size: int | None = option("images at a time", shown="16 on a CPU, 128 elsewhere", common=True)
    threads: int | None = option("CPU threads", shown="torch's choice")
    rounds: int = option("timing rounds, of which the median counts; 0 times nothing", 9, common=True)
    seed: int = option("seed of everything that is drawn at random", 0)


@dataclass(kw_only=True)
class OutputOptions:
    """Output"""

    json: str | None = option(
        "write all figures to this file as JSON; - for standard output", common=True, metavar="FILE"
    )
    wide: bool = option("print all columns of the tables, however wide", False)


@dataclass(kw_only=True)
class MethodChoice:
    """Method"""

    method: tuple[str, ...] = option(
        "how tokens are reduced: a method's name, my_file.py:Class, or auto, which picks one for --macs", (),
        shown="evit, or the saved folder's", common=True, metavar="NAME",
    )  # fmt: skip
    macs: tuple[float, ...] = option("budget: a share of the dense cost, such as 0.6", (), common=True)
    plan: Path | None = option(
        "a plan that vitrim tune has written, in the place of a method; of a front --macs says which", metavar="FILE"
    )
    latency: tuple[float, ...] = option("which plan of a front for milliseconds, in the place of --macs", ())
    prediction_only: bool = option(
        "let the last block compute class tokens alone, where the head reads no others: same prediction, fewer MACs",
        False,
    )
    guide: str | None = option("a timm model whose class attention chooses the tokens, such as a DINO")
    guide_checkpoint: Path | None = option("weights of the guide", shown="timm's own pretrained weights")

    def __post_init__(self):
        self.options: dict[str, Any] = {}  # those of the methods, by name

    @property
    def asks(self) -> bool:
        """Whether a reduced model is asked for."""
        budgets, plans = self.macs or self.latency, self.plan or self.prediction_only
        return bool(self.method or self.options or budgets or plans or self.guide)
