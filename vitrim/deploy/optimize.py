"""`optimize`: the same model, made ready for inference on this CPU."""

from __future__ import annotations

import copy
from typing import Any

from torch import nn

from ..backbones import find_family, library_of
from ..backbones.layers import is_bare, is_bare_linear
from ..backbones.packed import DTYPES, PackedLinear, trouble_with_packing
from ..runtime.model import ReducedViT, unwrap


def optimize(model: nn.Module) -> nn.Module:
    """A copy of a model, reduced or dense, for inference on CPU: every linear layer's weights are packed once, in the
    order in which oneDNN multiplies, and GELU runs in the kernel of the layer before it.

    The copy shares the parameters; the packed weights come beside them, so linear layers take twice their memory
    (`packed_bytes` says how much, once they have run). Results differ by rounding. It runs eagerly: in graphs that
    are compiled or exported it is the plain model again. Layers with something on them stay as they are.

    Raises ValueError for a model that is not supported, is not on the CPU or not in float32 or bfloat16, is in training
    mode, and where this torch cannot pack.

    Example:
        >>> fast = vitrim.reduce(model, "evit", keep=0.5).eval()
        >>> packed = vitrim.optimize(fast)
        >>> with torch.inference_mode():
        ...     torch.allclose(packed(images), fast(images), atol=1e-4)
        True
    """
    model = unwrap(model)
    backbone = model.backbone if isinstance(model, ReducedViT) else model
    find_family(backbone)  # refuses what is not supported
    _check(model)
    packed = sharing(model)
    _pack(packed.backbone if isinstance(packed, ReducedViT) else packed)
    return packed


def packed_bytes(model: nn.Module) -> int:
    """Bytes that packed weights take beside the parameters: known once the model has run.

    Example:
        >>> packed_bytes(model)
        0
    """
    return sum(part.packed_bytes for part in model.modules() if isinstance(part, PackedLinear))


def _check(model: nn.Module) -> None:
    trouble = trouble_with_packing()
    if trouble:
        raise ValueError(f"optimize: {trouble}")
    if model.training:
        raise ValueError("optimize is for inference, and the model is in training mode: call model.eval() first")
    for name, parameter in model.named_parameters():
        if parameter.device.type != "cpu" or parameter.dtype not in DTYPES:
            where = f"{str(parameter.dtype).removeprefix('torch.')} on {parameter.device}"
            raise ValueError(f"optimize is for float32 and bfloat16 on the CPU, and {name} is {where}")


def sharing(model: nn.Module) -> Any:
    """A copy of the modules over the same parameters and buffers; its parameters ask for no gradient."""
    shared: dict[int, Any] = {id(buffer): buffer for buffer in model.buffers()}
    for parameter in model.parameters():
        shared[id(parameter)] = nn.Parameter(parameter.detach(), requires_grad=False)
    return copy.deepcopy(model, shared)


def _pack(backbone: nn.Module) -> None:
    for name, layer in list(backbone.named_modules()):
        if is_bare_linear(layer) and type(layer) is nn.Linear:
            owner, _, key = name.rpartition(".")
            setattr(backbone.get_submodule(owner), key, PackedLinear(layer))
    mlps = library_of(backbone).mlps
    found: list[Any] = [part for part in backbone.modules() if type(part) in mlps and _ends_in_gelu(part)]
    for mlp in found:
        mlp.fc1.activation, mlp.act = "gelu", nn.Identity()


def _ends_in_gelu(mlp: Any) -> bool:
    """Whether the first layer is packed and exact GELU, with nothing on it, follows."""
    return isinstance(mlp.fc1, PackedLinear) and is_bare(mlp.act, nn.GELU) and mlp.act.approximate == "none"
