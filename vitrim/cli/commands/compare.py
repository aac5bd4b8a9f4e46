"""What `vitrim compare` takes."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ...common.absent import absent
from ..shared.options import DataOptions, MethodChoice, ModelOptions, OutputOptions, RunOptions
from ..shared.spec import ROWS, Command, option


@dataclass(kw_only=True)
class CompareOptions:
    """Comparison"""

    file: tuple[Path, ...] = option(
        "exported files, a row for each; then no method but those that --method names", (), common=True
    )
    out: Path | None = option("draw accuracy against cost into this file (.png, .svg)", common=True)
    show: Path | None = option(
        "show an earlier run again, from its --json: the table, --out, --best-under; nothing is measured",
        common=True,
        metavar="FILE",
    )
    overwrite: bool = option("replace the file of --out, where it is there", False, common=True)
    best_under: tuple[float, ...] | None = option(
        "say which row is best at this share of the dense cost; without X, at each share of --macs",
        common=True,
        bare=True,
    )
    target_change: float | None = option(
        "say which row is cheapest among those at most X points below dense", common=True
    )


WITH_SHOW = ("show", "out", "overwrite", "best-under", "target-change", "wide")


def check_show(config: Any) -> None:
    """Raise ValueError for shares that are none, for options that measure something beside --show, and for a file that
    is not there."""
    for share in config.more.best_under or ():
        if not 0 < share <= 1:
            raise ValueError(
                f"--best-under {share:g} is no share of the dense cost: give a number in (0, 1], such as 0.6"
            )
    if config.more.show is None:
        return
    if other := [name for name in config.given if name not in WITH_SHOW]:
        raise ValueError(
            f"--show {config.more.show} shows a run that is done, so leave out --{other[0]}; or repeat it by --config "
            f"{config.more.show}"
        )
    if not config.more.show.expanduser().is_file():
        raise ValueError(absent("file", config.more.show, "give --show what vitrim compare --json wrote"))


COMPARE = Command(
    "compare",
    "compare methods at several keep rates or budgets, in one table",
    "All models see the same images in one pass, and are then timed alternately on one batch. An option goes "
    "to every method that takes it. --out draws accuracy against cost.",
    (
        "vitrim compare --model deit_small_patch16_224 --data val --method evit topk",
        "vitrim compare --model deit_small_patch16_224 --data val --keep 0.9 0.7 0.5",
        "vitrim compare --checkpoint runs/evit --data val --macs 0.7 0.5 --out a.png",
    ),
    {
        "model": ModelOptions,
        "method": MethodChoice,
        "data": DataOptions,
        "run": RunOptions,
        "more": CompareOptions,
        "output": OutputOptions,
    },
    ROWS,
    endings=(".png", ".svg"),
    check=check_show,
    enough="show",
)
