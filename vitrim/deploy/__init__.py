"""Models made ready for where they run: packed weights on CPU, files for ONNX Runtime, OpenVINO and PyTorch."""

from .export import Exported, export
from .int8 import Int8
from .opened import OpenedFile, open_exported
from .optimize import optimize, packed_bytes

__all__ = ["Exported", "Int8", "OpenedFile", "export", "open_exported", "optimize", "packed_bytes"]
