"""Searching the plan: which blocks, which counts, for a budget."""

from .search import Row, tune

__all__ = ["Row", "tune"]
