"""vitrim: Vision Transformers made fast by spending compute only on the tokens that matter."""

from ._version import __version__
from .build import UntrainedWarning, reduce
from .cost import Profile, image_macs, profile
from .evidence import Evidence
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
from .model import ReducedViT
from .records import BlockTrace
from .reductions import Fuse, Keep, Mask, Merge, Reduction
from .storage import load, save
from .tokens import Tokens

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
