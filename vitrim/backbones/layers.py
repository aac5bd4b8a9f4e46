"""What a layer is: whether arithmetic on its weights may stand for calling it.

Torch and other libraries put things on layers: hooks, adapters, parametrisations, quantised weights. A layer's weights
are read only where it is exactly what it seems to be; everywhere else the layer is called.
"""

from __future__ import annotations

import copy
from types import FunctionType
from typing import Any

from torch import Tensor, nn

from .packed import PackedLinear

# What torch puts over a class: fully_shard, replicate, and torch.export while it records.
_OVER_CLASSES = ("FSDPModule", "ReplicateModule", "AttrProxy")


def kind(module: Any) -> type:
    """The type of a module below what torch itself puts over classes: parametrisations, FSDP2's sharding, the
    proxies of torch.export."""
    cls = type(module)
    cls = vars(cls).get("_reduces", cls)  # a reduced model of transformers says which class it is of
    while "forward" not in vars(cls):
        below = cls.__bases__
        if len(below) == 2 and below[0].__name__ in _OVER_CLASSES:
            cls = below[1]
        elif len(below) == 1 and cls.__name__ == f"Parametrized{below[0].__name__}":
            cls = below[0]
        else:
            break
    return cls


def part_kind(module: Any) -> type:
    """`kind` of a part that the loop calls, which may lie in torch.compile's wrapper."""
    return kind(getattr(module, "_orig_mod", module))


def has_hooks(module: nn.Module) -> bool:
    """Whether a hook of its own sits on the module."""
    attribute = module.__dict__.get  # written out: asked for several layers of every block
    return bool(
        attribute("_forward_hooks")
        or attribute("_forward_pre_hooks")
        or attribute("_backward_hooks")
        or attribute("_backward_pre_hooks")
    )


def has_own(module: nn.Module, name: str) -> bool:
    """Whether the module has a method of its own in the place of its class's; a bound copy of that one is none."""
    method = module.__dict__.get(name)
    return method is not None and not (
        getattr(method, "__self__", None) is module and method.__func__ is getattr(type(module), name)
    )


def is_bare(module: nn.Module | None, cls: type[nn.Module]) -> bool:
    """Whether the module is exactly of that class, and nothing sits on it."""
    return type(module) is cls and not has_own(module, "forward") and not has_hooks(module)


def is_bare_linear(layer: Any) -> bool:
    """Whether x W^T + b over the layer's weights is what calling it gives."""
    return (
        (is_bare(layer, nn.Linear) or (is_bare(layer, PackedLinear) and layer.activation == "none"))
        and nn.Linear.forward is _LINEAR
        and _is_bare_tensor(layer.weight)
        and (layer.bias is None or _is_bare_tensor(layer.bias))
    )


def _is_bare_tensor(weight: Tensor) -> bool:
    """No tensor subclass (quantised, sharded). Torch's own, with which it traces, are what they stand for."""
    cls = type(weight)
    return cls in (Tensor, nn.Parameter) or cls.__module__.startswith("torch._subclasses")


def wrapper_advice(module: nn.Module) -> str:
    """What to do with a wrapper instead of putting it there."""
    verb = "compile" if hasattr(module, "_orig_mod") else "wrap"
    return f"{verb} the reduced model, or layers that the loop calls, such as attn.qkv or mlp.fc1"


def original(cls: type, name: str) -> FunctionType | None:
    """A method of a class as its library wrote it; None where somebody has put another in its place."""
    owner = next(base for base in cls.__mro__ if name in vars(base))
    function = getattr(cls, name)
    foreign = getattr(function, "__module__", "").partition(".")[0] != owner.__module__.partition(".")[0]
    return None if foreign or hasattr(function, "__wrapped__") else function


_LINEAR = original(nn.Linear, "forward")


def own_copy(model: nn.Module) -> nn.Module:
    """A deep copy. Raises ValueError, with the reason, for a model that cannot be copied."""
    try:
        return copy.deepcopy(model)
    except (RuntimeError, AssertionError, TypeError) as error:  # weight_norm of old, FSDP, parts that hold a lock
        message = " ".join(str(error).split())[:160]
        raise ValueError(f"this {type(model).__name__} cannot be copied: {message}") from error
