"""Models made ready for where they run: packed weights on CPU."""

from .optimize import optimize, packed_bytes

__all__ = ["optimize", "packed_bytes"]
