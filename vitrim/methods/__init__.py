"""The methods: one paper, one file. `METHODS` is the one list that `reduce` and the command line read."""

from __future__ import annotations

from .base import Method
from .baselines import Grid, Random, TopK
from .evit import EViT
from .guide import LastClassAttention
from .idlevit import IdleViT

METHODS: dict[str, type[Method]] = {cls.name: cls for cls in (EViT, IdleViT, TopK, Random, Grid)}

__all__ = ["METHODS", "EViT", "Grid", "IdleViT", "LastClassAttention", "Method", "Random", "TopK"]
