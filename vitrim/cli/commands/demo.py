"""What `vitrim demo` takes."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from ..shared.options import DataOptions, ModelOptions, OutputOptions, RunOptions
from ..shared.spec import Command, option


@dataclass(kw_only=True)
class DemoOptions:
    """Demo"""

    out: Path | None = option("the page to write", shown="demo.html, or the next free demo-2.html ...", common=True)
    overwrite: bool = option("replace the page, where it is there", False, common=True)
    images: int = option("number of painted digits, without --data", 500, common=True)


@dataclass(kw_only=True)
class DemoDataOptions(DataOptions):
    """Images"""

    data: str | None = option(  # ty: ignore[incompatible-attribute-override]  # here the digits stand in for it
        "images of your own, for --model: a folder with one folder per class",
        common=True,
        metavar="PATH",
    )
    limit: int | None = option("use N of them, drawn at random, evenly over the classes", 500, common=True)


@dataclass(kw_only=True)
class DemoRunOptions(RunOptions):
    """Run"""

    rounds: int = option("timing rounds, of which the median counts; 0 times nothing", 3)  # of so many models
    threads: int | None = option("CPU threads", shown="1 for the digits, else torch's choice")


DEMO = Command(
    "demo",
    "compare the papers' methods on digits, or on images of your own",
    "It prints a table and writes a page. Without options a small model that comes with the package reads handwritten "
    "digits among distracting fragments; no network is needed. --model and --data make the same page for a model and "
    "images of your own, with the methods that need no training.",
    (
        "vitrim demo",
        "vitrim demo --model deit_small_patch16_224 --data val --out page.html",
    ),
    {
        "model": ModelOptions,
        "data": DemoDataOptions,
        "more": DemoOptions,
        "run": DemoRunOptions,
        "output": OutputOptions,
    },
    endings=(".html", ".htm"),
)
