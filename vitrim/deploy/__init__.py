"""Models made ready for where they run: packed weights on CPU, files for ONNX Runtime and PyTorch."""

from .export import Exported, export
from .optimize import optimize, packed_bytes

__all__ = ["Exported", "export", "optimize", "packed_bytes"]
