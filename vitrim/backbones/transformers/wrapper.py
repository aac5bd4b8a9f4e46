"""transformers' wrapper around a timm model, as `AutoModel.from_pretrained("timm/...")` gives it."""

from __future__ import annotations

from typing import Any

from torch import nn

from ..layers import kind

CLASSIFIER = "TimmWrapperForImageClassification"
CLASSES = ("TimmWrapperModel", CLASSIFIER)
_HOME = "transformers.models.timm_wrapper.modeling_timm_wrapper"


def is_timm_wrapper(cls: type) -> bool:
    """Whether this is exactly one of transformers' wrappers around a timm model."""
    return cls.__name__ in CLASSES and cls.__module__ == _HOME


def timm_inside(model: Any) -> nn.Module | None:
    """The timm model in such a wrapper; None for every other model."""
    return model.timm_model if is_timm_wrapper(kind(model)) else None
