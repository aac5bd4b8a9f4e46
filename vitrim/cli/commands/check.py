"""What `vitrim check` takes."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ..shared.options import ModelOptions, OutputOptions
from ..shared.spec import Command, option


@dataclass(kw_only=True)
class CheckMethodOptions:
    """Method"""

    method: tuple[str, ...] = option(
        "methods to check: names, or my_file.py:Class", (), shown="all that run on it; the saved folder's",
        common=True, metavar="NAME",
    )  # fmt: skip
    macs: float = option("budget of each: a share of the dense cost; one that cannot meet it has its defaults", 0.7)

    def __post_init__(self):
        self.options: dict[str, Any] = {}  # those of the methods, by name


@dataclass(kw_only=True)
class CheckOptions:
    """Check"""

    data: str | None = option(
        "images to check on, as for evaluate", shown="two random ones", common=True, metavar="PATH"
    )
    limit: int | None = option("number of these images, drawn at random", shown="8")
    export: str = option(
        "whose ONNX file is written and compared: the first method's, all methods', or none",
        "first",
        choices=("first", "all", "none"),
        common=True,
    )
    device: str = option("cpu, cuda, cuda:1 or mps", "cpu")


def take_word(config: Any) -> None:
    """The word without an option is the model: a name, or a folder that save() wrote. Raises ValueError where both are
    given."""
    if config.word is None:
        return
    name = "checkpoint" if Path(config.word).expanduser().is_dir() else "model"
    if name in config.given:
        raise ValueError(f"{config.word!r} and --{name} {config.given[name]}: give one of the two")
    setattr(config.model, name, Path(config.word) if name == "checkpoint" else config.word)
    config.given[name] = config.word  # so that the JSON of this run repeats it


CHECK = Command(
    "check",
    "check that a model with your weights keeps every promise",
    "With nothing reduced, every output is the model's, bit for bit. Then with each method at --macs: "
    "outputs are finite and whole; MACs are those that torch counts; an image alone is the same in a batch; "
    "weights are shared and untouched; what is saved comes back; an ONNX file agrees. The exit code is 1 if anything "
    "deviates.",
    (
        "vitrim check deit_tiny_patch16_224 --checkpoint weights.safetensors",
        "vitrim check hf:google/vit-base-patch16-224 --method tome evit",
        "vitrim check runs/evit --data val",
    ),
    {"model": ModelOptions, "method": CheckMethodOptions, "check": CheckOptions, "output": OutputOptions},
    "several values: one check for each",
    word="MODEL",
    check=take_word,
)
