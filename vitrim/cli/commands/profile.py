"""What `vitrim profile` takes."""

from __future__ import annotations

from dataclasses import dataclass

from ..shared.options import MethodChoice, ModelOptions, OutputOptions
from ..shared.spec import PLACES, Command, option


@dataclass(kw_only=True)
class ProfileOptions:
    """Run"""

    seed: int = option("seed of methods that draw at random", 0)


PROFILE = Command(
    "profile",
    "show what a model costs with a method, block by block",
    "Counts the multiply-accumulates (MACs) of one image, which papers call FLOPs. It needs no weights and no "
    "images; a checkpoint is only checked to fit.",
    (
        "vitrim profile --model deit_small_patch16_224 --method evit --keep 0.7",
        "vitrim profile --model deit_small_patch16_224 --method tome --macs 0.6",
    ),
    {"model": ModelOptions, "method": MethodChoice, "run": ProfileOptions, "output": OutputOptions},
    PLACES,
)
