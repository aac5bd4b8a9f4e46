"""What `vitrim evaluate` takes."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from ...common.files import check_output
from ..shared.options import DataOptions, MethodChoice, ModelOptions, OutputOptions, RunOptions
from ..shared.spec import PLACES, Command, option


@dataclass(kw_only=True)
class EvaluateOptions:
    """Comparison"""

    baseline: str | None = option(
        "another dense model to show; beside an exported file the only one: a file, a saved folder, or a timm name"
    )
    card: bool = option("write the figures into the model card, README.md, of the folder of --checkpoint", False)


def check_card(config: Any) -> None:
    """Raise ValueError for a card without the folder that it belongs to."""
    folder = config.model.checkpoint
    if config.more.card and not (folder is not None and folder.expanduser().is_dir()):
        raise ValueError("--card writes into a saved folder: give it as --checkpoint FOLDER")
    if config.more.card:
        check_output(folder / "README.md")


EVALUATE = Command(
    "evaluate",
    "judge one method beside the dense model: accuracy, cost, speed",
    "Both models see the same images in one pass, and are then timed alternately on one batch. Images without "
    "labels are judged by agreement, cosine and speed.",
    (
        "vitrim evaluate --model deit_small_patch16_224 --data val --keep 0.7",
        "vitrim evaluate --checkpoint runs/evit --data val",
        "vitrim evaluate --model fast.onnx --data val",
    ),
    {
        "model": ModelOptions,
        "method": MethodChoice,
        "data": DataOptions,
        "run": RunOptions,
        "more": EvaluateOptions,
        "output": OutputOptions,
    },
    PLACES,
    check=check_card,
)
