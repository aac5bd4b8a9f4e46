"""Predictions and features of any number of images: as callable classes, and as runs over data that can be resumed."""

from .callables import Embedder, Predictor

__all__ = ["Embedder", "Predictor"]
