"""vitrim: Vision Transformers made fast by spending compute only on the tokens that matter.

Example: half of the patch tokens stay at each of three places; inputs and outputs are the model's own.
    >>> fast = vitrim.reduce(model, "evit", keep=0.5)
    >>> fast(images).shape, vitrim.profile(fast).tokens
    (torch.Size([2, 2]), [64, 33, 18, 10])

The examples in the docstrings use a small DeiT of 4 blocks, whose images have 8 x 8 = 64 patches, and two images:
`model = timm.create_model("deit_tiny_patch16_224", img_size=128, depth=4, num_classes=2).eval()` and
`images = torch.randn(2, 3, 128, 128)`; where they need photographs, `photos/cat` and `photos/dog` hold four each.
"""

from __future__ import annotations

import sys
from importlib import import_module
from typing import TYPE_CHECKING, Any

from ._version import __version__

if TYPE_CHECKING:
    from .core.evidence import Evidence
    from .core.joining import Absorb, Join
    from .core.masking import Mask
    from .core.reductions import Fuse, Keep, Merge, Reduction
    from .core.tokens import Tokens
    from .deploy.export import export
    from .deploy.optimize import optimize
    from .inference.callables import Embedder, Predictor
    from .methods import (
        ATS,
        BAT,
        DPCKNN,
        METHODS,
        DiffRate,
        DynamicViT,
        EViT,
        EvoViT,
        Grid,
        IdleViT,
        LastClassAttention,
        Method,
        PiToMe,
        PruneMerge,
        Random,
        ToFe,
        ToMe,
        TopK,
        register_method,
    )
    from .runtime.build import UntrainedWarning, reduce
    from .runtime.loading import load
    from .runtime.model import ReducedViT, for_images
    from .runtime.plan_file import Plan
    from .runtime.profile import Profile, image_macs, profile
    from .runtime.records import BlockTrace
    from .runtime.saving import save
    from .runtime.sharing import from_pretrained

__all__ = [
    "ATS",
    "BAT",
    "DPCKNN",
    "METHODS",
    "Absorb",
    "BlockTrace",
    "DiffRate",
    "DynamicViT",
    "EViT",
    "Embedder",
    "Evidence",
    "EvoViT",
    "Fuse",
    "Grid",
    "IdleViT",
    "Join",
    "Keep",
    "LastClassAttention",
    "Mask",
    "Merge",
    "Method",
    "PiToMe",
    "Plan",
    "Predictor",
    "Profile",
    "PruneMerge",
    "Random",
    "ReducedViT",
    "Reduction",
    "ToFe",
    "ToMe",
    "Tokens",
    "TopK",
    "UntrainedWarning",
    "__version__",
    "export",
    "for_images",
    "from_pretrained",
    "image_macs",
    "load",
    "optimize",
    "profile",
    "reduce",
    "register_method",
    "save",
]

# Where each public name lives. PyTorch and timm take seconds to import, so they are imported when a name is used.
_HOMES = {
    "core.evidence": ("Evidence",),
    "core.joining": ("Absorb", "Join"),
    "core.masking": ("Mask",),
    "core.reductions": ("Fuse", "Keep", "Merge", "Reduction"),
    "core.tokens": ("Tokens",),
    "deploy.export": ("export",),
    "deploy.optimize": ("optimize",),
    "inference.callables": ("Embedder", "Predictor"),
    "methods": (
        *("ATS", "BAT", "DPCKNN", "METHODS", "DiffRate", "DynamicViT", "EViT", "EvoViT", "Grid", "IdleViT"),
        *("LastClassAttention", "Method", "PiToMe", "PruneMerge", "Random", "ToFe", "ToMe", "TopK", "register_method"),
    ),
    "runtime.build": ("UntrainedWarning", "reduce"),
    "runtime.model": ("ReducedViT", "for_images"),
    "runtime.plan_file": ("Plan",),
    "runtime.profile": ("Profile", "image_macs", "profile"),
    "runtime.records": ("BlockTrace",),
    "runtime.loading": ("load",),
    "runtime.saving": ("save",),
    "runtime.sharing": ("from_pretrained",),
}
_HOME_OF = {name: home for home, names in _HOMES.items() for name in names}
_ROOMS = (
    *(
        "backbones",
        "core",
        "data",
        "demo",
        "deploy",
        "evaluate",
        "inference",
        "methods",
        "playground",
        "runtime",
        "testing",
        "training",
        "tune",
        "view",
    ),
)


def __getattr__(name: str) -> Any:
    if name in _HOME_OF:
        value = getattr(import_module(f".{_HOME_OF[name]}", __name__), name)
        globals()[name] = value
        return value
    if name in _ROOMS:
        return import_module(f".{name}", __name__)
    if name[:1].isupper():  # a method of vitrim's own that is not listed above
        methods = import_module(".methods", __name__)
        if name in methods.__all__:
            return getattr(methods, name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted({*__all__, *_ROOMS})


if "timm" in sys.modules:  # who has imported timm may ask it for LV-ViT by name
    import_module(".backbones", __name__)
