"""Whether a device can be there at all, before PyTorch is imported: only what is certain is told."""

from __future__ import annotations

import ctypes
import re
import sys
from glob import glob
from importlib.util import find_spec
from pathlib import Path

DRIVERS = {"linux": "libcuda.so.1", "win32": "nvcuda.dll"}
NODES = ("/dev/nvidia*", "/dev/nvgpu*", "/dev/nvhost*", "/dev/dxg", "/dev/kfd")  # GPUs as Linux shows them


def check_device(device: str) -> None:
    """Raise ValueError for a GPU where there is surely none; in the words of `vitrim.evaluate.timing.as_device`, which
    asks PyTorch.

    Example:
        >>> check_device("cpu")
    """
    kind = device.partition(":")[0]
    if kind == "cuda" and _no_cuda():
        raise ValueError(f"--device {device}: there is none here (0 CUDA devices): use --device cpu")
    if kind == "mps" and sys.platform != "darwin":
        raise ValueError(f"--device {device}: there is none here: use --device cpu")


def _no_cuda() -> bool:
    """Whether PyTorch is built for CPUs alone, or there is neither a driver of NVIDIA's nor a GPU."""
    cuda, rocm = (_built_for(name) for name in ("cuda", "hip"))
    if not cuda:
        return not rocm
    return sys.platform in DRIVERS and not any(map(glob, NODES)) and not _loads(DRIVERS[sys.platform])


def _built_for(name: str) -> bool:
    """Whether PyTorch's own file of versions names one; True where it says nothing of it."""
    spec = find_spec("torch")
    folder = Path(next(iter(spec.submodule_search_locations or ()), "")) if spec is not None else Path()
    try:
        text = (folder / "version.py").read_text(encoding="utf-8")
    except OSError:
        return True
    return re.search(rf"^{name}\b.*= None$", text, re.MULTILINE) is None


def _loads(library: str) -> bool:
    try:
        ctypes.CDLL(library)
    except OSError:
        return False
    return True
