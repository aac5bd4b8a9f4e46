"""Whether a model made again is the model at hand: the first difference, in words."""

from __future__ import annotations

import functools
from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor, nn

from ..backbones import LIBRARIES
from ..methods import Method
from .model import ReducedViT
from .rebuilding import live_tables

_OF_MODULES = frozenset(vars(nn.Module()))
_FREE = {"_compiled_call_impl", "inplace"}  # how a value is computed, not which
_IGNORED = _OF_MODULES.union(_FREE, *(library.incidental for library in LIBRARIES))
_MISSING = object()
_IDLE = (nn.Identity, nn.Dropout, *(cls for library in LIBRARIES for cls in library.idle))  # alike in eval mode


def differences(model: ReducedViT, again: ReducedViT) -> Iterator[str]:
    """What of `model` is other than in `again`, which has its shapes and no values yet: modules, hooks, tensors."""
    yield from _modules(model, again)
    for name, module in _named(model).items():
        yield from _tensors(name, module, again.get_submodule(name))
    yield from _shared(model, again)


def other_settings(model: ReducedViT, again: ReducedViT) -> Iterator[str]:
    """What of `model` is other than in `again`, which holds the same tensors by now: settings of modules, places."""
    for name, module in _named(model).items():
        other = again.get_submodule(name)
        if isinstance(module, Method) and isinstance(other, Method):
            yield from _places(module, other)
        if not isinstance(module, _IDLE):
            yield from _settings(name, module, other)


def other_tables(model: ReducedViT, again: ReducedViT) -> dict[str, Tensor]:
    """The tables that no state dict holds and that `again` has worked out to other bits: they must be saved too."""
    worked_out = {name: table for _, name, table in live_tables(again)}
    return {name: table for _, name, table in live_tables(model) if not same_bits(table, worked_out[name])}


def same_bits(this: Tensor, other: Tensor) -> bool:
    """Whether two tensors of one dtype hold the same bits, nan among them."""
    this, other = this.detach().cpu().contiguous(), other.detach().cpu().contiguous()
    if this.shape != other.shape or this.dtype != other.dtype:
        return False
    return torch.equal(this.reshape(-1).view(torch.uint8), other.reshape(-1).view(torch.uint8))


def _named(model: nn.Module) -> dict[str, nn.Module]:
    """Every module, also under each of several names."""
    return dict(model.named_modules(remove_duplicate=False))


def _modules(model: ReducedViT, again: ReducedViT) -> Iterator[str]:
    ours, theirs = _named(model), _named(again)
    for name, module in ours.items():
        if name not in theirs:
            yield f"{name} ({_kind(module)}) is one part too many"
        elif type(module) is not type(theirs[name]) and not _idle(module, theirs[name]):
            yield f"{name} is {_kind(module, theirs[name])} and would be {_kind(theirs[name], module)}"
        elif module._forward_hooks or module._forward_pre_hooks:
            yield f"{name or 'the model'} has a forward hook, which a file cannot hold"
    yield from (f"{name} ({_kind(theirs[name])}) is missing" for name in theirs if name not in ours)


def _idle(this: nn.Module, other: nn.Module) -> bool:
    return type(this) in _IDLE and type(other) in _IDLE


def _kind(module: nn.Module, beside: nn.Module | None = None) -> str:
    """The name of its type; with the file that it is from where another one is called so too."""
    cls = type(module)
    alike = beside is not None and type(beside).__name__ == cls.__name__
    return f"{cls.__module__}.{cls.__name__}" if alike else cls.__name__


def _tensors(path: str, module: nn.Module, other: nn.Module) -> Iterator[str]:
    for kind, ours, theirs in (
        ("parameter", module._parameters, other._parameters),
        ("buffer", module._buffers, other._buffers),
    ):
        for name in {**ours, **theirs}:
            this, that, full = ours.get(name), theirs.get(name), f"{path}.{name}" if path else name
            if this is not None and that is not None:
                yield from _tensor(full, this, that)
            elif this is not that:
                yield f"{full} is {f'one {kind} too many' if that is None else 'missing'}"
    if module._non_persistent_buffers_set != other._non_persistent_buffers_set:
        yield f"{path} has other buffers in its state dict"


def _tensor(name: str, this: Tensor, that: Tensor) -> Iterator[str]:
    plain = type(this) in (Tensor, nn.Parameter, nn.Buffer) and this.layout is torch.strided and not this.is_quantized
    if not plain:
        yield f"{name} is {type(this).__name__} of layout {this.layout}, no plain tensor"
    elif this.is_meta:
        yield f"{name} has no values: it is on the meta device"
    elif this.shape != that.shape:
        yield f"{name} is {list(this.shape)} and would be {list(that.shape)}"
    elif this.dtype != that.dtype and not (this.dtype in _FLOATS and that.dtype in _FLOATS):
        yield f"{name} is {this.dtype} and would be {that.dtype}"


_FLOATS = (torch.float64, torch.float32, torch.float16, torch.bfloat16)


def _shared(model: ReducedViT, again: ReducedViT) -> Iterator[str]:
    """Tensors under several names: loaded, each name would have its own."""
    known = {frozenset(names) for names in _by_tensor(again)}
    for names in _by_tensor(model):
        if len(names) > 1 and frozenset(names) not in known:
            yield f"{names[0]} and {names[1]} share their values, and would not"


def _by_tensor(model: nn.Module) -> list[list[str]]:
    found: dict[Any, list[str]] = {}
    for name, parameter in model.named_parameters(remove_duplicate=False):
        where = id(parameter) if parameter.is_meta or not parameter.numel() else parameter.data_ptr()
        found.setdefault((parameter.device, where), []).append(name)
    return list(found.values())


def _settings(path: str, module: nn.Module, other: nn.Module) -> Iterator[str]:
    ours, theirs, name = _attributes(module), _attributes(other), path or "the model"
    for key in ours.keys() - theirs.keys():
        if hasattr(type(module), key):  # it hides what the class has: a patched forward
            yield f"{name}: its {key} is replaced"
    if isinstance(module, (ReducedViT, Method)):  # the rest follows from their options
        return
    for key, value in theirs.items():
        value_here = getattr(module, key, _MISSING)  # a part that was taken out is None among the parts
        if value_here is _MISSING:
            yield f"{name}: its {key} is missing"
        elif not same(value_here, value):
            yield f"{name}: its {key} is {_brief(value_here)} and would be {_brief(value)}"


def _attributes(module: nn.Module) -> dict[str, Any]:
    return {key: value for key, value in vars(module).items() if key not in _IGNORED}


def _places(method: Method, other: Method) -> Iterator[str]:
    ours, theirs = ([(p.block, p.keep) for p in this.places] for this in (method, other))
    if ours != theirs:
        yield f"{method.name} keeps {_brief(ours)} (block, rate) and would keep {_brief(theirs)}"
    if method._masked is not other._masked:
        yield f"{method.name}: masked is set to {method._masked}"


def _brief(value: Any) -> str:
    text = " ".join(repr(value).split())
    return text if len(text) <= 60 else f"{text[:57]}..."


def same(this: Any, other: Any) -> bool:
    """Whether two settings are alike: values equal, functions of the same code, objects alike in all their parts."""
    if this is other:
        return True
    if isinstance(this, Tensor) or isinstance(other, Tensor):
        return isinstance(this, Tensor) and isinstance(other, Tensor) and same_bits(this, other)
    if isinstance(this, (list, tuple)) and isinstance(other, (list, tuple)):
        return len(this) == len(other) and all(map(same, this, other))
    if isinstance(this, dict) and isinstance(other, dict):
        return this.keys() == other.keys() and all(same(this[key], other[key]) for key in this)
    if isinstance(this, functools.partial) and isinstance(other, functools.partial):
        return same((this.func, this.args, this.keywords), (other.func, other.args, other.keywords))
    if hasattr(this, "__code__") and hasattr(other, "__code__"):
        return this.__code__ is other.__code__
    if isinstance(this, nn.Module):
        return type(this) is type(other)  # as a part it is compared by itself
    return type(this) is type(other) and this == other if isinstance(this, bool) else bool(this == other)
