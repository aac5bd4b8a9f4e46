"""vitrim: Vision Transformers made fast by spending compute only on the tokens that matter."""

from ._version import __version__
from .build import UntrainedWarning, reduce
from .cost import Profile, profile
from .evidence import Evidence
from .methods import METHODS, EViT, Grid, IdleViT, LastClassAttention, Method, Random, TopK
from .model import BlockTrace, ReducedViT
from .reductions import Fuse, Keep, Mask, Merge, Reduction
from .storage import load, save
from .tokens import Tokens

__all__ = [
    "METHODS",
    "BlockTrace",
    "EViT",
    "Evidence",
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
    "Tokens",
    "TopK",
    "UntrainedWarning",
    "__version__",
    "load",
    "profile",
    "reduce",
    "save",
]
