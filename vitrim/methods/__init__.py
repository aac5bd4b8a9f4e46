"""The methods: one paper, one file. `METHODS` is the one list that `reduce` and the command line read."""

from __future__ import annotations

from .ats import ATS
from .base import Method
from .baselines import Grid, Random, TopK
from .bat import BAT
from .dpcknn import DPCKNN
from .dynamicvit import DynamicViT
from .evit import EViT
from .evovit import EvoViT
from .idlevit import IdleViT
from .parts.guide import LastClassAttention
from .tofe import ToFe
from .tome import ToMe

_ALL = (EViT, BAT, IdleViT, ToFe, ToMe, DynamicViT, DPCKNN, EvoViT, ATS, TopK, Random, Grid)
METHODS: dict[str, type[Method]] = {cls.name: cls for cls in _ALL}

__all__ = [
    "ATS",
    "BAT",
    "DPCKNN",
    "METHODS",
    "DynamicViT",
    "EViT",
    "EvoViT",
    "Grid",
    "IdleViT",
    "LastClassAttention",
    "Method",
    "Random",
    "ToFe",
    "ToMe",
    "TopK",
]
