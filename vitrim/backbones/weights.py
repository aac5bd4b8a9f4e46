"""Whether tensors are plain, finite weights: for state dicts of any library, before a model takes them."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor, nn

from ..common.text import few

_FLOATS = (torch.float64, torch.float32, torch.float16, torch.bfloat16)


def check_tensors(state: Mapping[str, Tensor], where: object) -> None:
    """Raise ValueError, naming the first key, for tensors that are no plain numbers, and for NaN and infinity."""
    for key, tensor in state.items():
        odd = _oddity(tensor)
        if odd:
            raise ValueError(f"{where}: {few([key])} is {odd}: save the state dict of the model as it was trained")
    for key, tensor in state.items():
        if tensor.is_floating_point() and not tensor.isfinite().all():
            raise ValueError(
                f"{where}: {few([key])} holds NaN or infinity, so that all outputs would be meaningless: take an "
                "earlier checkpoint"
            )


def _oddity(tensor: Tensor) -> str:
    if type(tensor) not in (Tensor, nn.Parameter):
        return f"a {type(tensor).__name__}"
    if tensor.is_quantized:
        return f"quantised ({bare_name(tensor.dtype)})"
    if tensor.layout != torch.strided or tensor.is_nested:
        return f"sparse ({bare_name(tensor.layout)})"
    if tensor.is_meta:
        return "without data (on the meta device)"
    if tensor.is_floating_point() and tensor.dtype not in _FLOATS:
        return f"{bare_name(tensor.dtype)}, whose scale is not in the file"
    return ""


def bare_name(kind: torch.dtype | torch.layout) -> str:
    """The name of a dtype or a layout without `torch.` in front."""
    return str(kind).removeprefix("torch.")
