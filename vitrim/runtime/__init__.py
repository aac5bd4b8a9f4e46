"""A backbone and methods put together: the model, its loop, its cost, saving and loading."""

from __future__ import annotations

from pathlib import Path

from .model import ReducedViT
from .saving import save


def _save(self: ReducedViT, folder: str | Path) -> None:
    """Write `config.json` and `model.safetensors` into a folder that `vitrim.load` reads."""
    save(self, folder)


# Saving makes a model again, so it knows the class; the class gets its method here, where both are known.
_save.__name__, _save.__qualname__ = "save", "ReducedViT.save"
ReducedViT.save = _save
