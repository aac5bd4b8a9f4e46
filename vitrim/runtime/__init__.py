"""A backbone and methods put together: the model, its loop, its cost, saving and loading."""

from __future__ import annotations

from pathlib import Path

from . import pretrained_files, saving
from .model import ReducedViT
from .pretrained import ReducedPretrained


def save(self: ReducedViT, folder: str | Path) -> None:
    """Write `config.json` and `model.safetensors` into a folder that `vitrim.load` reads."""
    saving.save(self, folder)


# Here, since these make models again and so import the classes.
ReducedViT.save = save
ReducedPretrained._in_config = staticmethod(pretrained_files.in_config)
ReducedPretrained._load = staticmethod(pretrained_files.load_pretrained)
