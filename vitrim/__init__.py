"""vitrim: Vision Transformers made fast by spending compute only on the tokens that matter."""

from ._version import __version__
from .core.evidence import Evidence
from .core.reductions import Fuse, Keep, Mask, Merge, Reduction
from .core.tokens import Tokens
from .methods import (
    ATS,
    BAT,
    DPCKNN,
    METHODS,
    DynamicViT,
    EViT,
    EvoViT,
    Grid,
    IdleViT,
    LastClassAttention,
    Method,
    Random,
    ToFe,
    ToMe,
    TopK,
)
from .runtime.build import UntrainedWarning, reduce
from .runtime.model import ReducedViT
from .runtime.profile import Profile, image_macs, profile
from .runtime.records import BlockTrace
from .runtime.storage import load, save

__all__ = [
    "ATS",
    "BAT",
    "DPCKNN",
    "METHODS",
    "BlockTrace",
    "DynamicViT",
    "EViT",
    "Evidence",
    "EvoViT",
    "Fuse",
    "Grid",
    "IdleViT",
    "Keep",
    "LastClassAttention",
    "Mask",
    "Merge",
    "Method",
    "Profile",
    "Random",
    "ReducedViT",
    "Reduction",
    "ToFe",
    "ToMe",
    "Tokens",
    "TopK",
    "UntrainedWarning",
    "__version__",
    "image_macs",
    "load",
    "profile",
    "reduce",
    "save",
]
