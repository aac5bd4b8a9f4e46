"""How fast this machine could be: its rate of matrix products on a model's own shapes, and its memory's."""

from __future__ import annotations

import time
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from ..backbones.packed import DTYPES, PackedLinear, trouble_with_packing

ROUNDS = 25
STREAM = 1 << 26  # numbers read to measure the memory, more than caches hold


@dataclass(frozen=True)
class Roofline:
    """macs_per_s: multiply-accumulates of matrix products; bytes_per_s: read from memory."""

    macs_per_s: float
    bytes_per_s: float

    def seconds(self, macs: float, weight_bytes: float) -> float:
        """The least time for so many MACs, over weights of so many bytes: the dearer of the two."""
        return max(macs / self.macs_per_s, weight_bytes / self.bytes_per_s)


def measure_roofline(model: nn.Module, rows: int, dtype: torch.dtype = torch.float32) -> Roofline:
    """Measure on products of `rows` rows with the weights of the model's linear layers, each shape once; on a CPU with
    packed weights too, where torch has them: the faster counts.

    Example:
        >>> roof = measure_roofline(model, rows=65)
        >>> roof.seconds(macs=1e9, weight_bytes=1e6) > 0
        True
    """
    shapes = {tuple(layer.weight.shape) for layer in model.modules() if isinstance(layer, nn.Linear)}
    device = next(model.parameters()).device
    rates = [rows * out * inner / _product(rows, out, inner, dtype, device) for out, inner in sorted(shapes)]
    stream = torch.ones(STREAM, device=device)
    return Roofline(max(rates), STREAM * stream.element_size() / _seconds(stream.sum, stream))


def _product(rows: int, out: int, inner: int, dtype: torch.dtype, device: torch.device) -> float:
    x, weight = (torch.randn(size, inner, device=device).to(dtype) for size in (rows, out))
    result = torch.empty(rows, out, dtype=dtype, device=device)
    plain = _seconds(lambda: torch.mm(x, weight.T, out=result), x)
    if device.type != "cpu" or dtype not in DTYPES or trouble_with_packing():
        return plain
    packed = PackedLinear(nn.Linear(inner, out, bias=False, dtype=dtype))
    return min(plain, _seconds(lambda: packed(x), x))


@torch.inference_mode()
def _seconds(run, like: Tensor) -> float:
    """The shortest time of a call, after two to warm up: a bound is what the machine can do when nothing else runs."""
    times = []
    for _ in range(ROUNDS + 2):
        _wait(like)
        begin = time.perf_counter()
        run()
        _wait(like)
        times.append(time.perf_counter() - begin)
    return min(times[2:])


def _wait(like: Tensor) -> None:
    if like.is_cuda:
        torch.cuda.synchronize(like.device)
