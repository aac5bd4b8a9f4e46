"""How a run is carried out; nothing here changes what it learns, but the seed and the devices' arithmetic."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ..common.errors import OptionError


@dataclass(frozen=True)
class Settings:
    """Where and how a run goes.

    out:          folder for the result, its tables and checkpoints
    seed:         of weights, order and augmentation
    precision:    "no", "bf16" or "fp16" (Accelerate's mixed precision)
    micro_batch:  images a process computes at once; the batch is accumulated from these. None: all of them
    workers:      processes that decode; 0: the training process itself
    save_minutes: write a checkpoint this often besides every epoch's end
    log_every:    steps between rows of steps.csv
    compile:      run the student through torch.compile
    checkpointing: compute activations again in the backward pass instead of keeping them, to save memory
    trackers:     Accelerate's: "tensorboard", "trackio", "wandb"
    cpu:          train on the CPU even where there is a GPU
    show:         print the progress

    Raises ValueError for numbers out of range.

    Example:
        >>> Settings(Path("out"), precision="bf16").checkpoints.as_posix()
        'out/checkpoints'
        >>> Settings(Path("out"), micro_batch=0)
        Traceback (most recent call last):
        vitrim.common.errors.OptionError: micro_batch=0: give a number from 1
    """

    out: Path
    seed: int = 0
    precision: str = "no"
    micro_batch: int | None = None
    workers: int = 0
    save_minutes: float = 10.0
    log_every: int = 10
    compile: bool = False
    checkpointing: bool = False
    trackers: tuple[str, ...] = ()
    cpu: bool = False
    show: bool = True

    def __post_init__(self):
        smallest = {"micro_batch": 1, "workers": 0, "save_minutes": 0, "log_every": 1}
        for name, least in smallest.items():
            value = getattr(self, name)
            if value is not None and value < least:
                raise OptionError({name: value}, f": give a number from {least}")

    @property
    def checkpoints(self) -> Path:
        """The folder of the run's checkpoints."""
        return self.out / "checkpoints"


def flat(tree: dict[str, Any]) -> dict[str, Any]:
    """Nested fields by their own names; tuples as lists, as they come back from a file."""
    fields: dict[str, Any] = {}
    for key, value in tree.items():
        plain = list(value) if isinstance(value, tuple) else value
        fields.update(flat(value) if isinstance(value, dict) else {key: plain})
    return fields
