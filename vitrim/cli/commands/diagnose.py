"""What `vitrim diagnose` takes, and what can be told of it at once."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

from ..shared.options import CLASSES_OWN, MODELS_OWN, MethodChoice, ModelOptions, OutputOptions
from ..shared.spec import ROWS, Command, option, required
from .visualize import PAGES


@dataclass(kw_only=True)
class DiagnoseData:
    """Images"""

    data: str = required(
        "a folder with one folder per class, or of images without labels, a .tar, a pattern in quotes, a list of "
        "files, or a name of timm's (hfds/...)",
        metavar="DATA",
    )
    unlabelled: bool = option("take all images below the folder, without labels, however it is divided", False)
    label_file: Path | None = option("labels of a flat folder: lines `file label`, or one label a line")
    split: str | None = option("a folder below DATA, or the split of a named data set")
    root: Path | None = option("where a named data set is stored")
    class_map: Path | None = option(
        "a file that gives the model's class for each name: `name,index`", shown=CLASSES_OWN
    )
    limit_per_class: int | None = option("use the first N images of each class", shown="all")
    limit: int | None = option("use N images, drawn at random, evenly over the classes", shown="all", common=True)
    crop_pct: float | None = option("share of the resized image that the centre crop keeps", shown=MODELS_OWN)
    workers: int | None = option("processes that decode images", shown="one for each processor, at most 8")


@dataclass(kw_only=True)
class DiagnoseRun:
    """Run"""

    precision: ClassVar[str] = "float32"
    rounds: ClassVar[int] = 1  # nothing is timed

    device: str | None = option("cpu, cuda, cuda:1 or mps", shown="the fastest that is there", common=True)
    batch_size: int | None = option("images at a time", shown="16 on a CPU, 128 elsewhere", common=True)
    threads: int | None = option("CPU threads", shown="torch's choice")
    seed: int = option("seed of everything that is drawn at random", 0)


@dataclass(kw_only=True)
class DiagnosisOptions:
    """Diagnosis"""

    out: Path | None = option("write a page with the tables, plots and photographs that differ (.html)", common=True)
    overwrite: bool = option("replace the page, where it is there", False, common=True)
    differing: int = option("photographs that differ and are shown, those of which dense is surest", 24, common=True)


def check_diagnose(config: Any) -> None:
    """Raise ValueError for options that cannot be, or do not go together."""
    data, differing = config.data, config.out.differing
    if differing < 0:
        raise ValueError(f"--differing {differing}: give a whole number from 0")
    for name in ("label_file", "class_map", "limit_per_class"):
        if data.unlabelled and getattr(data, name) is not None:
            raise ValueError(f"--unlabelled takes no labels, and --{name.replace('_', '-')} is about labels")


DIAGNOSE = Command(
    "diagnose",
    "measure on your images what the papers measure of their methods",
    "Re-selection, similarity, diversity, attention, agreement. The dense model and each reduced one see the same "
    "images in one pass: tables here, and with --out plots and the photographs on which they differ. No labels are "
    "needed. What has no meaning for a method is left out, with the reason.",
    (
        "vitrim diagnose val --model deit_small_patch16_224 --method evit bat idlevit",
        "vitrim diagnose photos --checkpoint runs/tofe --limit 500 --out report.html",
    ),
    {
        "data": DiagnoseData,
        "model": ModelOptions,
        "method": MethodChoice,
        "run": DiagnoseRun,
        "out": DiagnosisOptions,
        "output": OutputOptions,
    },
    ROWS,
    endings=PAGES,
    takes="data",
    check=check_diagnose,
)
