"""A linear layer whose weights lie in memory as oneDNN multiplies them: packed once, not at every call.

`nn.Linear` on CPU packs its weights anew at each call. The fewer rows there are, the more of the time that takes.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from ..core.recording import recording

DTYPES = (torch.float32, torch.bfloat16)


class PackedLinear(nn.Linear):
    """`nn.Linear` for inference on CPU, over the same parameters and with a packed copy of the weights.

    activation: "gelu": GELU of the result, in the same kernel; "none"

    The packed copy is made anew where the weights have changed, as far as torch counts that: writing into `weight.data`
    is not seen. With gradients, in graphs that are being recorded, off
    the CPU and in other dtypes than float32 and bfloat16 it computes as `nn.Linear` does.
    """

    def __init__(self, layer: nn.Linear, activation: str = "none"):
        nn.Module.__init__(self)  # the parameters are the layer's own
        self.in_features, self.out_features = layer.in_features, layer.out_features
        self.weight, self.bias = layer.weight, layer.bias
        self.activation = activation
        self._packed: dict[torch.dtype, tuple[Any, Tensor]] = {}
        self._derived: dict[str, tuple[Any, tuple[Tensor, ...]]] = {}
        self.train(layer.training)

    def forward(self, x: Tensor) -> Tensor:  # ty: ignore[lost-keyword-for-regular-parameter]
        # Four of these run in every block: each question below is asked in its cheapest form, and once.
        weight, bias = self._parameters["weight"], self._parameters.get("bias")
        dtype = torch.get_autocast_dtype("cpu") if torch.is_autocast_enabled("cpu") else x.dtype
        if not self._can_pack(x, weight, dtype):
            out = super().forward(x)
            return out if self.activation == "none" else nn.functional.gelu(out)
        if bias is not None and bias.dtype != dtype:
            bias = bias.to(dtype)
        x = x if x.dtype == dtype else x.to(dtype)
        # "none" beside "gelu" is its exact form.
        scheme = "none" if self.activation == "gelu" else ""
        return _OPS._linear_pointwise(x, self._weights(weight, dtype), bias, self.activation, [], scheme)

    @staticmethod
    def _can_pack(x: Tensor, weight: Any, dtype: torch.dtype) -> bool:
        grown = torch.is_grad_enabled() and (x.requires_grad or weight.requires_grad)
        return not grown and x.is_cpu and weight.is_cpu and dtype in DTYPES and not recording() and x.numel() > 0

    def _weights(self, weight: Any, dtype: torch.dtype) -> Tensor:
        """The packed weights in that dtype, of the weights as they are now."""
        state, known = _state(weight), self._packed.get(dtype)
        if known is None or known[0] != state:
            known = state, _OPS._reorder_linear_weight(weight.detach().to(dtype).contiguous())
            self._packed[dtype] = known
        return known[1]

    def derived(self, name: str, make: Callable[[], tuple[Tensor, ...]]) -> tuple[Tensor, ...]:
        """Tensors that `make` computes of the weights and the bias; made anew where these have changed."""
        state = (_state(self.weight), None if self.bias is None else _state(self.bias))
        known = self._derived.get(name)
        if known is None or known[0] != state:
            known = self._derived[name] = state, make()
        return known[1]

    @property
    def packed_bytes(self) -> int:
        """Bytes of the packed copies, and of what is derived from the weights."""
        derived = sum(tensor.nbytes for _, tensors in self._derived.values() for tensor in tensors)
        return derived + sum(self.weight.numel() * dtype.itemsize for dtype in self._packed)

    def __getstate__(self) -> dict:
        """Packed copies are opaque to copies and pickles, and are made anew."""
        return {**self.__dict__, "_packed": {}, "_derived": {}}

    def extra_repr(self) -> str:
        return f"{super().extra_repr()}, activation={self.activation}"


def _state(tensor: Any) -> tuple[int, int]:
    """Changes where the tensor's values do, as far as torch counts; tensors of inference mode have no version."""
    return tensor.data_ptr(), -1 if tensor.is_inference() else tensor._version


_OPS: Any = torch.ops.mkldnn


def trouble_with_packing() -> str:
    """Why this machine, or this torch, cannot pack; empty where it can."""
    if not torch.backends.mkldnn.is_available():
        return "this torch has no oneDNN (torch.backends.mkldnn), which packs the weights"
    if not (hasattr(_OPS, "_linear_pointwise") and hasattr(_OPS, "_reorder_linear_weight")):
        return f"torch {torch.__version__} has no operators for packed weights: torch 2.9 to 2.14 have"
    return ""
