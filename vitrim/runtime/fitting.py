"""Methods on a model that is not known beforehand: each with the options without which it could not run there."""

from __future__ import annotations

from typing import Any

from torch import nn

from ..common.errors import UnfitModel
from ..methods import METHODS
from .build import attach
from .model import ReducedViT


def attach_fitting(dense: nn.Module, name: str, seed: int = 0, **options: Any) -> ReducedViT:
    """`attach` by a method's name, with `seed` where it draws at random, and with what the model needs of it (such as
    another score, where there is no [CLS] token).

    Raises ValueError as `reduce` does; UnfitModel where no option makes the method fit.

    Example:
        >>> attach_fitting(model, "random", seed=3, macs=0.6).methods[0].options()["seed"]
        3
    """
    if "seed" in METHODS[name].option_names():
        options["seed"] = seed
    try:
        return attach(dense, name, **options)
    except UnfitModel as unfit:
        if not unfit.needs:
            raise
        return attach(dense, name, **options, **unfit.needs)
