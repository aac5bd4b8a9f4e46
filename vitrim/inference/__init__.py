"""Predictions and features of any number of images: as callable classes, and as runs over data that can be resumed."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from .callables import Embedder, Predictor

__all__ = ["Embedder", "Predictor"]


def __getattr__(name: str) -> Any:
    """These import PyTorch, which takes seconds; what is on the disk of a run is read without it."""
    if name in __all__:
        from . import callables

        return getattr(callables, name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
