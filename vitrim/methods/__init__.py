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
from .registry import METHODS, import_method, import_path, is_own, register_method
from .tofe import ToFe
from .tome import ToMe

for _cls in (EViT, BAT, IdleViT, ToFe, ToMe, DynamicViT, DPCKNN, EvoViT, ATS, TopK, Random, Grid):
    register_method(_cls)

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
    "import_method",
    "import_path",
    "is_own",
    "register_method",
]
