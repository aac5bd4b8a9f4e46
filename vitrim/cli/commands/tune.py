"""What `vitrim tune` takes, and what can be told of it at once."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ...common.files import check_new
from ...common.text import did_you_mean
from ..shared.options import MODELS_OWN, PRECISIONS, ModelOptions, OutputOptions
from ..shared.signatures import own_signatures
from ..shared.spec import Command, option, required

ENDINGS = (".json",)
PICTURES = (".png", ".svg", ".pdf")
STACKED = "+"


@dataclass(kw_only=True)
class SearchOptions:
    """Search"""

    data: str = required("photographs to search on, no labels: a folder, a .tar, a pattern or a list", metavar="DATA")
    out: Path = required("the plan to write (.json)")
    method: tuple[str, ...] = option(
        "methods to search, each for itself; a stack as tome+evit: the first in the first half of the blocks",
        ("prunemerge",), common=True, metavar="NAME",
    )  # fmt: skip
    macs: tuple[float, ...] = option(
        "budgets, shares of the dense MACs; several make a front", (), shown="0.5", common=True
    )
    latency: tuple[float, ...] = option(
        "budgets, shares of the dense milliseconds, in the place of --macs", (), common=True
    )
    batch_size: int | None = option("images at a time, for --latency", shown="16 on a CPU, 128 elsewhere", common=True)
    precision: str = option("numbers to compute in, for --latency", "float32", choices=PRECISIONS)
    trials: int = option("plans to judge for each method and budget", 300, common=True)
    images: int = option("photographs to search on", 256, common=True)
    held_out: int = option("other photographs, to report on", 256, common=True)
    picture: Path | None = option("draw the front, and tokens over depth (.png, .svg, .pdf)", common=True)
    overwrite: bool = option("replace the files, where they are there, or another unfinished search", False)
    crop_pct: float | None = option("share of the resized image that the centre crop keeps", shown=MODELS_OWN)
    device: str | None = option("cpu, cuda, cuda:1 or mps", shown="the fastest that is there")
    threads: int | None = option("CPU threads", shown="torch's choice")
    workers: int | None = option("processes that decode images", shown="one for each processor, at most 8")
    seed: int = option("seed of the search, and of which photographs are drawn", 0, common=True)


def check_tune(config: Any) -> None:
    """Raise ValueError for what can be known to fail before a model is opened."""
    search = config.search
    check_new(search.out, search.overwrite, ENDINGS)
    if search.picture is not None:
        check_new(search.picture, search.overwrite, PICTURES, "--picture")
    for name in ("trials", "images"):
        if getattr(search, name) < 1:
            raise ValueError(f"--{name} {getattr(search, name)}: give a whole number from 1")
    if search.held_out < 0:
        raise ValueError(f"--held-out {search.held_out}: give a whole number from 0")
    _check_budgets(config)
    for stack in () if config.imports else search.method:
        _check_names(stack)


def _check_names(stack: str) -> None:
    """Raise ValueError for names that are no method's."""
    known = own_signatures()
    for name in stack.split(STACKED):
        if not name:
            raise ValueError(f"--method {stack}: a stack is names with {STACKED} between them, such as tome+evit")
        if name == "auto":
            raise ValueError("--method auto needs no search: give it to compare or export; here name what to search")
        if name not in known:
            raise ValueError(
                f"--method {stack}: {name!r} is no method, {did_you_mean(name, known)}vitrim methods lists them"
            )


def _check_budgets(config: Any) -> None:
    search = config.search
    if search.macs and search.latency:
        raise ValueError("--macs and --latency are both given: a search has one kind of budget, leave one out")
    for name in ("batch_size", "precision"):
        flag = name.replace("_", "-")
        if flag in config.given and not search.latency:
            raise ValueError(f"--{flag} is about milliseconds: give --latency too, or leave it out")
    for flag, shares in (("--macs", search.macs), ("--latency", search.latency)):
        for share in shares:
            if not 0 < share < 1:
                raise ValueError(
                    f"{flag} {share:g} is no share of the dense cost: give numbers between 0 and 1, such as 0.5"
                )


TUNE = Command(
    "tune",
    "search which tokens leave in which block, without any labels",
    "Nothing is trained. Plans of one cost are judged by how far they take the model from its dense self on some "
    "hundred photographs of yours; others, which the search never sees, say how good the best one is. A search that "
    "was killed goes on when the same command is given again. Every command takes the result by --plan.",
    (
        "vitrim tune photos --model deit_small_patch16_224 --out plan.json",
        "vitrim tune photos --model deit_small_patch16_224 --macs 0.7 0.5 --out f.json",
        "vitrim tune photos --model deit_small_patch16_224 --latency 0.5 --out ms.json",
    ),
    {"model": ModelOptions, "search": SearchOptions, "output": OutputOptions},
    takes="data",
    check=check_tune,
)
