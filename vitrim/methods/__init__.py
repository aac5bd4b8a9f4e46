"""The methods: one paper, one file. A new one is a line here; its file registers it, and `METHODS` has this order."""

# ruff: noqa: F401, I001  the four papers first, then their rivals, then the floor
from .base import Method
from .evit import EViT
from .bat import BAT
from .idlevit import IdleViT
from .tofe import ToFe
from .tome import ToMe
from .dynamicvit import DynamicViT
from .dpcknn import DPCKNN
from .diffrate import DiffRate
from .pitome import PiToMe
from .prunemerge import PruneMerge
from .evovit import EvoViT
from .ats import ATS
from .baselines import Grid, Random, TopK
from .parts.guide import LastClassAttention
from .registry import METHODS, check_name_free, import_method, import_path, is_own, register_method, source_hash

__all__ = [
    *(cls.__name__ for cls in METHODS.values()),
    *("METHODS", "LastClassAttention", "Method", "check_name_free", "import_method", "import_path", "is_own"),
    *("register_method", "source_hash"),
]
