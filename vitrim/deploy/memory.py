"""Peak memory of one forward: the most bytes that its tensors hold at once, beside weights and images."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.multiprocessing.reductions import StorageWeakRef
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

# Where PyTorch sees every tensor of a forward: on a CPU operator by operator, on a GPU by its own allocator.
SEEN = {"cpu": ("eager", "packed"), "cuda": ("eager", "packed", "compiled")}


class LiveBytes(TorchDispatchMode):
    """Bytes of all storages made under it that are still alive, after every operator; `peak` is the most.

    Counted: what every operator returns, from the moment that it returns until the last tensor over it goes, the
    intermediate tensors of a forward included; a view is no storage of its own. Not counted: what was there before
    (weights, packed weights, images), and what one operator takes and gives back while it runs, such as oneDNN's
    scratch memory and the tiles of fused attention.

    Example:
        >>> with torch.no_grad(), LiveBytes() as watch:
        ...     y = torch.zeros(1000) + 1  # both are there at once, 4000 bytes each
        >>> watch.peak
        8000
    """

    def __init__(self):
        super().__init__()
        self.alive: dict[int, tuple[StorageWeakRef, int]] = {}
        self.peak = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        given = {storage._cdata for storage in _storages((args, kwargs))}
        out = func(*args, **(kwargs or {}))
        self.alive = {key: entry for key, entry in self.alive.items() if not entry[0].expired()}
        for storage in _storages(out):
            if storage._cdata not in given:
                self.alive.setdefault(storage._cdata, (StorageWeakRef(storage), storage.nbytes()))
        self.peak = max(self.peak, sum(nbytes for _, nbytes in self.alive.values()))
        return out


def _storages(tensors: Any) -> list[Any]:
    """Packed weights are opaque: they have none."""
    return [t.untyped_storage() for t in tree_leaves(tensors) if isinstance(t, Tensor) and not t.is_mkldnn]


def peak_bytes(run: Callable[[Tensor], Any], batch: Tensor, runtime: str = "eager") -> int | None:
    """Most bytes that one forward holds at once, beside weights and images, its output included.

    On a CPU as `LiveBytes` counts, on a GPU as PyTorch's allocator does. None for runtimes whose memory PyTorch does
    not see: those outside of it, and on a CPU compiled code.

    Example:
        >>> small, large = (peak_bytes(model, images[:size]) for size in (1, 2))
        >>> 0 < small < large, peak_bytes(model, images, "onnx")
        (True, None)
    """
    if runtime not in SEEN.get(batch.device.type, ()):
        return None
    with torch.inference_mode():
        run(batch)  # what is made once, such as packed weights, is no part of a forward
        if batch.is_cuda:
            return _peak_on_gpu(run, batch)
        with LiveBytes() as watch:
            run(batch)
    return watch.peak


def _peak_on_gpu(run: Callable[[Tensor], Any], batch: Tensor) -> int:
    torch.cuda.synchronize(batch.device)
    torch.cuda.reset_peak_memory_stats(batch.device)
    before = torch.cuda.memory_allocated(batch.device)
    run(batch)
    torch.cuda.synchronize(batch.device)
    return torch.cuda.max_memory_allocated(batch.device) - before
