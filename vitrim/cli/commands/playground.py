"""What `vitrim playground` takes."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ...common.errors import OptionError
from ...common.ports import listening
from ..shared.options import ModelOptions
from ..shared.spec import Command, option

DEFAULT_MODEL = "deit_tiny_patch16_224"


@dataclass(kw_only=True)
class PlaygroundModelOptions(ModelOptions):
    """Model"""

    model: tuple[str, ...] = option(  # ty: ignore[incompatible-attribute-override]  # here there may be several
        "models to pick from: timm's names; of transformers hf:NAME or hf:FOLDER",
        (),
        shown=DEFAULT_MODEL,
        common=True,
        metavar="NAME",
    )
    checkpoint: tuple[Path, ...] = option(  # ty: ignore[incompatible-attribute-override]
        "weights of each --model, in that order; or, without --model, folders that save() wrote",
        (),
        shown="timm's own pretrained weights",
        common=True,
        metavar="PATH",
    )


@dataclass(kw_only=True)
class ServerOptions:
    """Page"""

    port: int | None = option(
        "the page's port; 0: any free one", shown="7860, or the next free one", common=True, metavar="N"
    )
    host: str = option("the address to listen at; 0.0.0.0 lets other machines in", "127.0.0.1", common=True)
    device: str | None = option("cpu, cuda, cuda:1 or mps", shown="the fastest that is there", common=True)
    threads: int | None = option("CPU threads", shown="torch's choice", common=True)
    seed: int = option("seed of methods that draw at random", 0)


def check_playground(config: Any) -> None:
    """Raise ValueError for ports that there are not, and weights of which it is not clear whose they are."""
    port, models, checkpoints = config.server.port, config.model.model, config.model.checkpoint
    if port is not None and not 0 <= port <= 65535:
        raise OptionError({"port": port}, ": give a whole number from 1 to 65535, or 0 for any free port")
    if models and checkpoints and len(models) != len(checkpoints):
        raise ValueError(
            f"--model names {len(models)} and --checkpoint {len(checkpoints)}: give weights for each model, in the "
            "same order, or for none"
        )
    with listening(config.server.host, port):  # and again when it is served
        pass


PLAYGROUND = Command(
    "playground",
    "open a page: drop a photograph, move a budget, see what happens",
    "The page shows the patches at work in every block, and answers, GMACs and milliseconds, dense beside reduced. It "
    "is on this machine alone unless --host says otherwise, and offers the models named here and no others. Ctrl-C "
    "ends it.",
    (
        "vitrim playground",
        "vitrim playground --model deit_tiny_patch16_224 deit_small_patch16_224",
        "vitrim playground --checkpoint runs/evit --port 8000",
    ),
    {"server": ServerOptions, "model": PlaygroundModelOptions},
    check=check_playground,
    begins="starting the playground; its address comes in some seconds",
)
