"""What `vitrim visualize` takes."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ...common.places import check_pictures
from ..shared.options import MethodChoice, ModelOptions, OutputOptions
from ..shared.spec import ROWS, Command, option, required

FIGURES, PAGES = (".png", ".svg", ".pdf"), (".html", ".htm")


@dataclass(kw_only=True)
class LookOptions:
    """Pictures"""

    images: tuple[str, ...] = required("photographs, folders of them, or patterns in quotes", metavar="PATH")
    out: Path | None = option(
        "the figure to write (.png, .svg, .pdf), or a page that steps through the blocks (.html)",
        shown="patches.png, or the next free patches-2.png ...",
        common=True,
    )
    overwrite: bool = option("replace the file of --out, where it is there", False, common=True)
    limit: int = option("show the first N photographs", 8, common=True)
    blocks: tuple[int, ...] = option("blocks that a figure shows", (), shown="where the stages begin", common=True)
    crop_pct: float | None = option("share of the resized image that the centre crop keeps", shown="the model's own")
    device: str | None = option("cpu, cuda, cuda:1 or mps", shown="the fastest that is there")
    threads: int | None = option("CPU threads", shown="torch's choice")
    seed: int = option("seed of methods that draw at random", 0)


def check_look(config: Any) -> None:
    """Raise ValueError for what can be known to fail before a model is opened."""
    look = config.look
    check_pictures(look.images)
    if look.blocks and look.out is not None and look.out.suffix.lower() in PAGES:
        raise ValueError(f"--blocks is for figures: {look.out} steps through all blocks")


VISUALIZE = Command(
    "visualize",
    "draw what becomes of the patches of photographs",
    "One method, or several side by side. For each photograph: the patches at work in each block, how many blocks "
    "each took part in, and what the dense and the reduced model say. A page (.html) steps through the blocks, by the "
    "arrow keys too.",
    (
        "vitrim visualize cat.jpg --model deit_small_patch16_224 --method evit tome",
        "vitrim visualize photos --checkpoint runs/tofe --out page.html",
    ),
    {"look": LookOptions, "model": ModelOptions, "method": MethodChoice, "output": OutputOptions},
    ROWS,
    endings=(*FIGURES, *PAGES),
    takes="images",
    check=check_look,
)
