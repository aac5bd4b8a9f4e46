"""Searching the plan: which blocks, which counts, for a budget."""

from .latency import Latency
from .search import Row, tune

__all__ = ["Latency", "Row", "tune"]
