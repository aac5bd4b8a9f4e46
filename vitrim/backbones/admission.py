"""What may sit on a model. The loop runs the parts of a block and goes around the modules that hold them: the model,
its blocks, their attention. A hook there is run; another class or another forward there is refused by name.

Looked at when a model is taken and before every forward, since anybody may put something on it at any time.
"""

from __future__ import annotations

import gc
import warnings
from collections.abc import Iterable
from types import FunctionType
from typing import Any, NamedTuple

import torch
from torch import nn

from ..common import unwrapping
from .hooks import any_global
from .layers import has_hooks, has_own, kind, original, wrapper_advice

Kinds = dict[type, dict[str, FunctionType | None]]
Around = list[tuple[nn.Module, Kinds]]  # the modules that a family's loop goes around


class Look(NamedTuple):
    """What a look over a model has found.

    trouble: why it cannot be run, in one line
    hooked:  whether hooks sit on modules that the loop goes around
    """

    trouble: str | None
    hooked: bool


def kinds(*types: type[nn.Module], steps: tuple[str, ...] = ("forward",)) -> Kinds:
    """Types that a module may have, with those of their methods that the loop stands for, as they are now."""
    return {cls: {step: original(cls, step) for step in steps} for cls in types}


def around_blocks(found: Iterable[nn.Module], blocks: Kinds, attentions: Kinds) -> Around:
    """The blocks and their attention; a wrapper in a block's place has none."""
    parts: Around = []
    for block in found:
        parts.append((block, blocks))
        attn = block._modules.get("attn")
        if attn is not None:
            parts.append((attn, attentions))
    return parts


@torch.compiler.assume_constant_result  # traced code keeps what was found when it was traced
def look_over_traced(identity: int, family: type) -> Look:
    """`look_over` for code that is being compiled: torch before 2.11 takes no module as an argument here, so the model
    comes as its `id`."""
    return look_over(next(candidate for candidate in gc.get_objects() if id(candidate) == identity), family)


def look_over(model: nn.Module, family: type) -> Look:
    """Look over a model that a family is about to run."""
    around = family(model).around()
    bare = _is_bare(around)
    trouble = None if bare else next(filter(None, (_trouble(model, *part) for part in around)), None)
    hooked = any_global() or (not bare and any(has_hooks(module) for module, _ in around))
    return Look(trouble, hooked)


def _is_bare(around: Around) -> bool:
    """Whether nothing at all sits there: the common case, found in microseconds."""
    classes: dict[type, dict[str, FunctionType | None]] = {}
    for module, allowed in around:
        attributes, known = module.__dict__, allowed.get(type(module))
        if known is None or not known.keys().isdisjoint(attributes):
            return False
        if (
            attributes["_forward_hooks"]
            or attributes["_forward_pre_hooks"]
            or attributes["_backward_hooks"]
            or attributes["_backward_pre_hooks"]
        ):
            return False
        classes[type(module)] = known
    return all(getattr(cls, step) is function for cls, known in classes.items() for step, function in known.items())


def _trouble(model: nn.Module, module: nn.Module, allowed: Kinds) -> str | None:
    known = allowed.get(kind(module))
    if known is None:
        return _strange(model, module, allowed)
    for step, function in known.items():
        if has_own(module, step):
            return _patched(path_of(model, module), step, module)
        if getattr(type(module), step) is not function:
            name = f"{type(module).__name__}.{step}"
            return f"{name} is not {_library(module)}'s own, for which vitrim's loop stands: take the patch off"
    if module._backward_hooks and module._is_full_backward_hook is False:
        return f"{path_of(model, module)} has a backward hook of the old kind: use register_full_backward_hook"
    return None


def _strange(model: nn.Module, module: nn.Module, allowed: Kinds) -> str:
    names = " or ".join(cls.__name__ for cls in allowed)
    what = f"{path_of(model, module)} is a {type(module).__name__}, and vitrim's loop runs the parts of a {names}"
    return f"{what}: {wrapper_advice(module)}"


def _patched(path: str, step: str, module: nn.Module) -> str:
    if "_hf_hook" in module.__dict__:
        way_out = "take accelerate's hooks off (remove_hook_from_module(model, recurse=True))"
    elif "_original_forward" in module.__dict__:
        way_out = "give accelerator.unwrap_model(model, keep_fp32_wrapper=False), and prepare the reduced model"
    else:
        way_out = "do that to the reduced model, or to a part that the loop calls, such as norm1, attn.qkv or mlp"
    return f"{path}.{step} has been replaced, and vitrim's loop would go around it: {way_out}"


def _library(module: nn.Module) -> str:
    return kind(module).__module__.partition(".")[0]


def path_of(model: nn.Module, module: nn.Module) -> str:
    """Where a module stands in a model: blocks.2.attn."""
    name = next((name for name, candidate in model.named_modules() if candidate is module), "")
    return name or kind(model).__name__


_LIBRARIES = ("torch.nn.modules.", "timm.", "vitrim.")
_forgetful: set[type] = set()  # their classes seen so far; looking a name up takes longer


def is_fresh(blocks: Iterable[Any]) -> bool:
    """Whether what the branches of these blocks give is nobody else's: every layer that it may come from is torch's,
    timm's or vitrim's own, with nothing on it that could keep it."""
    for block in blocks:
        parts = block._modules
        attn, mlp = parts["attn"]._modules, parts["mlp"]._modules
        for layer in (*parts.values(), attn.get("proj"), attn.get("proj_drop"), mlp.get("fc2"), mlp.get("drop2")):
            if layer is None:
                continue
            attributes = layer.__dict__
            if attributes["_forward_hooks"] or "forward" in attributes:
                return False
            if type(layer) not in _forgetful:
                if not type(layer).__module__.startswith(_LIBRARIES):
                    return False
                _forgetful.add(type(layer))
    return True


def refuse(model: nn.Module, family: type) -> None:
    """Raise ValueError for a model with something on it that would be lost."""
    trouble = look_over(model, family).trouble
    if trouble:
        raise ValueError(trouble)


def refuse_wrapper(wrapper: nn.Module) -> None:
    """Raise ValueError for hooks on a wrapper that is about to be taken off."""
    if has_hooks(wrapper):
        name = type(wrapper).__name__
        raise ValueError(f"the {name} around the model has hooks, and is taken off: put them on the reduced model")


def unwrapped(model: nn.Module) -> nn.Module:
    """The model inside torch.compile's and DistributedDataParallel's wrappers. Raises ValueError for hooks on these."""
    return unwrapping.unwrap(model, refuse_wrapper)


def warn_of_unseen(model: nn.Module, around: Iterable[tuple[nn.Module, Kinds]]) -> None:
    """Warn of what changes no value and has no effect: `compile()` of modules that the loop goes around."""
    compiled = [path_of(model, module) for module, _ in around if module._compiled_call_impl is not None]
    if compiled:
        more = f" and {len(compiled) - 1} more" if len(compiled) > 1 else ""
        warnings.warn(
            f"compile() of {compiled[0]}{more} has no effect, vitrim's loop runs the parts: compile the reduced model",
            stacklevel=4,
        )
