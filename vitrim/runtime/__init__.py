"""A backbone and methods put together: the model, its loop, its cost, saving and loading."""

from __future__ import annotations

from pathlib import Path

from . import pretrained_files, saving, sharing
from .model import ReducedViT
from .pretrained import ReducedPretrained


def save(self: ReducedViT, folder: str | Path) -> None:
    """Write `config.json` and `model.safetensors` into a folder that `vitrim.load` reads."""
    saving.save(self, folder)


# Here, since these make models again and so import the classes.
ReducedViT.save = save
ReducedPretrained._in_config = staticmethod(pretrained_files.in_config)
ReducedViT.save_pretrained = sharing.save_pretrained
ReducedViT.push_to_hub = sharing.push_to_hub
ReducedViT.from_pretrained = staticmethod(sharing.from_pretrained)
ReducedPretrained._load = staticmethod(sharing.load_shared)
ReducedPretrained._push = staticmethod(sharing.push_to_hub)
ReducedPretrained._card = staticmethod(sharing.card_of)
ReducedPretrained._put_card = staticmethod(sharing.put_card)
