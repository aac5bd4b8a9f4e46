"""Tensors in a safetensors file: written through a file that is open already, read from one version of it alone."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any, BinaryIO

import torch
from safetensors import safe_open
from torch import Tensor

DTYPES = {
    "F64": torch.float64,
    "F32": torch.float32,
    "F16": torch.float16,
    "BF16": torch.bfloat16,
    "I64": torch.int64,
    "I32": torch.int32,
    "I16": torch.int16,
    "I8": torch.int8,
    "U8": torch.uint8,
    "BOOL": torch.bool,
}
_CODES = {dtype: code for code, dtype in DTYPES.items()}
TRIES = 50  # a file that is replaced each time that it is opened


def write_tensors(file: BinaryIO, tensors: Mapping[str, Tensor], metadata: Mapping[str, str]) -> None:
    """Write one after the other, without a copy of them all; the library would put a file of its own in the place of
    this one, unsynced and with other rights."""
    names = sorted(tensors, key=lambda name: (-tensors[name].element_size(), name))
    header: dict[str, Any] = {"__metadata__": dict(metadata)}
    end = 0
    for name in names:
        begin, end = end, end + tensors[name].numel() * tensors[name].element_size()
        code, shape = _CODES[tensors[name].dtype], list(tensors[name].shape)
        header[name] = {"dtype": code, "shape": shape, "data_offsets": [begin, end]}
    text = json.dumps(header, separators=(",", ":"), ensure_ascii=False).encode()
    text += b" " * (-len(text) % 8)
    file.write(len(text).to_bytes(8, "little") + text)
    for name in names:
        file.write(memoryview(as_bytes(tensors[name]).numpy()))


def as_bytes(tensor: Tensor) -> Tensor:
    """The bytes of a tensor, on the CPU."""
    return tensor.detach().cpu().contiguous().reshape(-1).view(torch.uint8)


def digest(tensors: Mapping[str, Tensor]) -> str:
    """Names what tensors hold: their names, dtypes, shapes and every bit."""
    found = hashlib.sha256()
    for name in sorted(tensors):
        tensor = tensors[name]
        found.update(f"{name} {tensor.dtype} {list(tensor.shape)}\n".encode())
        found.update(memoryview(as_bytes(tensor).numpy()))
    return found.hexdigest()


def open_tensors(path: Path) -> Any:
    """The file as safetensors reads it (`keys`, `metadata`, `get_slice`, `get_tensor`), all of one version of it: the
    library opens a file twice, and a writer may replace it in between.

    Raises SafetensorError or OSError for what is no such file.
    """
    for _ in range(TRIES):
        before = _version(path)
        opened = safe_open(path, framework="pt")
        if _version(path) == before:
            return opened
    raise OSError(f"{path.name} is replaced again and again")


def _version(path: Path) -> tuple[int, ...]:
    found = os.stat(path)
    return found.st_dev, found.st_ino, found.st_mtime_ns, found.st_size
