"""The methods: one paper, one file. `METHODS` is the one list that `reduce` and the command line read."""

from __future__ import annotations

from .base import Method
from .baselines import Grid, Random, TopK
from .dynamicvit import DynamicViT
from .evit import EViT
from .guide import LastClassAttention
from .idlevit import IdleViT
from .tome import ToMe

METHODS: dict[str, type[Method]] = {cls.name: cls for cls in (EViT, IdleViT, ToMe, DynamicViT, TopK, Random, Grid)}

__all__ = ["METHODS", "DynamicViT", "EViT", "Grid", "IdleViT", "LastClassAttention", "Method", "Random", "ToMe", "TopK"]
