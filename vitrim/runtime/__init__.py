"""A backbone and methods put together: the model, its loop, its cost, saving and loading."""

from __future__ import annotations

from pathlib import Path

from . import saving
from .model import ReducedViT


def save(self: ReducedViT, folder: str | Path) -> None:
    """Write `config.json` and `model.safetensors` into a folder that `vitrim.load` reads."""
    saving.save(self, folder)


ReducedViT.save = save  # here, since `saving` makes models again and so imports the class
