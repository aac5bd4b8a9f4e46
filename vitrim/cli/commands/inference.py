"""What `vitrim predict` and `vitrim embed` take, and what can be told of it at once."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ...common.files import check_new, check_place
from ...inference.journal import Journal
from ..shared.options import MODELS_OWN, PRECISIONS, MethodChoice, ModelOptions, OutputOptions
from ..shared.spec import PLACES, Command, option, required

TABLES = (".csv", ".jsonl", ".ndjson", ".parquet")
STATE = "_run.json"  # what a run leaves in a folder that it has written, or is about to


@dataclass(kw_only=True)
class InferenceData:
    """Images"""

    data: tuple[str, ...] = required(
        "folders of any depth, photographs, patterns in quotes; or one .tar, one text file with a file on each line, "
        "or one name of timm's (hfds/...)",
        metavar="DATA",
    )
    split: str | None = option("a folder below DATA, or the split of a named data set")
    root: Path | None = option("where a named data set is stored")
    limit: int | None = option("use N images, drawn at random", shown="all", common=True)
    crop_pct: float | None = option("share of the resized image that the centre crop keeps", shown=MODELS_OWN)
    workers: int | None = option("processes that decode images", shown="one for each processor, at most 8")


@dataclass(kw_only=True)
class InferenceMethod(MethodChoice):
    """Method"""

    method: tuple[str, ...] = option(
        "how tokens are reduced: a method's name, or my_file.py:Class", (),
        shown="the saved folder's, else none; evit where --macs or --keep is given", common=True, metavar="NAME",
    )  # fmt: skip


@dataclass(kw_only=True)
class InferenceRun:
    """Run"""

    device: str | None = option("cpu, cuda, cuda:1 or mps", shown="the fastest that is there", common=True)
    precision: str = option("numbers to compute in", "float32", choices=PRECISIONS, common=True)
    batch_size: int | None = option("images at a time", shown="16 on a CPU, 128 elsewhere", common=True)
    threads: int | None = option("CPU threads, of each model", shown="torch's choice")
    engine: str = option(
        "what computes: this machine's processes, or Ray's, of the cluster that RAY_ADDRESS names",
        "local",
        choices=("local", "ray"),
    )
    actors: int | None = option("models that --engine ray holds", shown="one for each GPU, or for each 4 cores")
    seed: int = option("seed of everything that is drawn at random", 0)


@dataclass(kw_only=True)
class PredictionOptions:
    """Predictions"""

    out: Path = required("the file to write: .csv, .jsonl or .parquet")
    top: int = option("classes for each image, the most likely first", 5, common=True)
    class_names: Path | None = option(
        "names of the classes: one a line in the model's order, or lines `name,index`; for CLIP and SigLIP what to "
        "look for",
        shown="the model's own, or ImageNet's",
        common=True,
        metavar="FILE",
    )
    prompt: str | None = option("for CLIP and SigLIP: the sentence around each name", shown="This is a photo of {}.")
    part: int = option("images in a part; a kill loses the one that is being computed", 1024)
    overwrite: bool = option("replace the file, where it is there, or another unfinished run", False, common=True)


@dataclass(kw_only=True)
class FeatureOptions:
    """Features"""

    out: Path = required("the folder to write")
    dense: bool = option("a feature for every patch, in the place of one for each image", False, common=True)
    format: str = option("of the files in it", "npy", choices=("npy", "parquet"), common=True)
    part: int = option("images in a file, in whole batches and at most 64 MB; a kill loses one at most", 4096)
    overwrite: bool = option("replace the folder, where it is there, or another unfinished run", False, common=True)


def check_predict(config: Any) -> None:
    """Raise ValueError for an output that cannot be written, or is there; one of a run that has only to be put in
    place may be."""
    _from_one(config.out, "top", "part")
    _check_engine(config.run)
    _check_unfinished(config)
    check_new(config.out.out, config.out.overwrite or _ended(config.out.out), TABLES)


def check_embed(config: Any) -> None:
    """The same for a folder. One that no run has written is never replaced."""
    _from_one(config.out, "part")
    _check_engine(config.run)
    _check_unfinished(config)
    out = config.out.out.expanduser()
    check_place(out)
    if not out.exists() or (out.is_dir() and not os.listdir(out)):
        return
    if not (out / STATE).is_file():
        raise ValueError(f"{out} is there already and no folder of features: give another --out")
    if not (config.out.overwrite or _ended(out)):
        raise ValueError(f"{out} is there already: give another --out, or --overwrite")


def _check_engine(run: Any) -> None:
    if run.actors is not None and run.engine != "ray":
        raise ValueError(f"--actors {run.actors} goes with --engine ray: leave it out, or start many processes")
    if run.engine == "ray" and run.device not in (None, "cpu", "cuda"):
        raise ValueError(f"--device {run.device} is of one machine: Ray gives each actor its own, give cpu or cuda")


def _check_unfinished(config: Any) -> None:
    """Raise ValueError for an unfinished run that was asked something else, as far as the options tell; the rest is
    compared when the model is there."""
    typed = {"model": config.model.model, "split": config.data.split, "precision": config.run.precision}
    asked = {"command": config.command, **{key: value for key, value in typed.items() if value is not None}}
    if config.method.method and config.method.plan is None:
        asked["method"] = config.method.method[0]
    for name in ("format", "dense"):
        if hasattr(config.out, name):
            asked[name] = getattr(config.out, name)
    if not config.out.overwrite:
        Journal(config.out.out).check({**asked, **data_told(config.data.data)})


def data_told(words: Sequence[str]) -> dict[str, str]:
    """What tells the data of a run from others, as they were named: the first word, and a digest of all."""
    whole = [os.path.abspath(word) if os.path.exists(word) else word for word in words]
    others = hashlib.sha256("\0".join(whole).encode("utf-8", "surrogateescape")).hexdigest()
    return {"data": whole[0], **({"data_names": others} if len(words) > 1 else {})}


def _from_one(options: Any, *names: str) -> None:
    for name in names:
        if getattr(options, name) < 1:
            raise ValueError(f"--{name} {getattr(options, name)}: give a whole number from 1")


def _ended(out: Path) -> bool:
    out = out.expanduser()
    return (out.with_name(f"{out.name}.parts") / STATE).is_file()


_GROUPS = {"model": ModelOptions, "method": InferenceMethod, "data": InferenceData, "run": InferenceRun}
PREDICT = Command(
    "predict",
    "write the likeliest classes of every image into one table",
    "Images come from folders, a .tar or a list, and are decoded beside the model. A run that was killed goes on "
    "where it was, when the same command is given again; images that cannot be read are listed in "
    "OUT.unreadable.jsonl. Under accelerate launch or torchrun each process takes its share.",
    (
        "vitrim predict photos --model deit_small_patch16_224 --out classes.csv",
        "vitrim predict 'photos/**/*.jpg' --checkpoint runs/evit --out classes.parquet",
    ),
    {**_GROUPS, "out": PredictionOptions, "output": OutputOptions},
    PLACES,
    takes="data",
    check=check_predict,
)
EMBED = Command(
    "embed",
    "write the features of every image into a folder of files",
    "One feature for each image, or with --dense one for every patch. Runs go on after a kill, and share the work, as "
    "those of vitrim predict do; images that cannot be read are listed in _unreadable.jsonl.",
    (
        "vitrim embed photos --model vit_small_patch14_dinov2 --out features",
        "vitrim embed photos.tar --checkpoint runs/evit --dense --out features",
    ),
    {**_GROUPS, "out": FeatureOptions, "output": OutputOptions},
    PLACES,
    takes="data",
    check=check_embed,
)
