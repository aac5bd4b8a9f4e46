"""Searching the plan: which blocks, which counts, for a budget."""

from .latency import Latency
from .row import Row
from .search import tune

__all__ = ["Latency", "Row", "tune"]
