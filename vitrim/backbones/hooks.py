"""Hooks of the modules that the loop goes around, run where and as torch would run them.

The loop never calls a block, an attention layer or the model itself: it runs their parts. What sits on them must act
all the same, or the result would silently be another model's.
"""

from __future__ import annotations

from typing import Any, NamedTuple

from torch import Tensor, nn
from torch.nn.modules import module as torch_module  # its dictionaries of hooks for all modules have no other name
from torch.utils.hooks import BackwardHook


class Inside(NamedTuple):
    """A module that has been entered and not left: what it was given, and its backward hooks."""

    args: tuple[Any, ...]
    keywords: dict[str, Any]
    backward: BackwardHook | None


class UnseenKeywords(dict):
    """The keyword arguments of a call that vitrim's loop does not make, such as `rope`, for hooks that want them.

    A hook that only hands them on is followed; one that reads them would see none and do something else.
    """

    def __init__(self, module: nn.Module):
        super().__init__()
        self.module = type(module).__name__

    def _read(self, *_: Any, **__: Any) -> Any:
        raise ValueError(
            f"a hook of {self.module} reads its keyword arguments, which vitrim's loop does not pass: "
            "take the hook off, or register it without with_kwargs=True"
        )

    __getitem__ = __setitem__ = __delitem__ = __contains__ = __iter__ = __len__ = _read
    keys = values = items = get = pop = popitem = setdefault = update = copy = clear = __or__ = __ior__ = _read

    def __repr__(self) -> str:
        return f"<keyword arguments of {self.module}, which vitrim's loop does not pass>"


# transformers' hooks that collect hidden states; `runtime/tower_layers.py` hands them whole grids.
COLLECTS = "transformers.utils.output_capturing"


def any_global() -> bool:
    """Whether hooks sit on all modules at once."""
    return bool(
        torch_module._global_forward_hooks
        or torch_module._global_forward_pre_hooks
        or torch_module._global_backward_hooks
        or torch_module._global_backward_pre_hooks
    )


def before(module: nn.Module, x: Tensor, keywords: dict[str, Any]) -> tuple[Tensor, Inside]:
    """x after the module's forward pre-hooks, and what `after` wants to know; keywords: what hooks are shown."""
    args: tuple[Any, ...] = (x,)
    hooks = {**torch_module._global_forward_pre_hooks, **module._forward_pre_hooks}
    for key, hook in hooks.items():
        if key in module._forward_pre_hooks_with_kwargs:
            shown = _shown_to(hook, keywords)
            args = _with_keywords(module, args, hook(module, args, shown), shown)
        else:
            given = hook(module, args)
            args = args if given is None else given if isinstance(given, tuple) else (given,)
    if len(args) != 1:
        raise ValueError(f"a hook gives {type(module).__name__} {len(args)} inputs, and vitrim's loop takes one")
    backward = _backward_hook(module)
    args = args if backward is None else backward.setup_input_hook(args)
    return args[0], Inside(args, keywords, backward)


def _shown_to(hook: Any, keywords: dict[str, Any]) -> dict[str, Any]:
    """torch's own hooks, such as those of FSDP, look through the arguments for tensors to see to, whatever their names:
    they may see none."""
    return {} if getattr(hook, "__module__", "").startswith("torch.") else keywords


def _with_keywords(module: nn.Module, args: tuple[Any, ...], given: Any, shown: dict[str, Any]) -> tuple[Any, ...]:
    if given is None:
        return args
    args, keywords = given
    if keywords is not shown and keywords:
        names = ", ".join(keywords)
        raise ValueError(f"a hook gives {type(module).__name__} the arguments {names}, which vitrim's loop cannot take")
    return args


def after(module: nn.Module, inside: Inside, out: Any) -> Any:
    """The output after the module's forward hooks."""
    hooks = {**torch_module._global_forward_hooks, **module._forward_hooks}
    for key, hook in hooks.items():
        if getattr(hook, "__module__", "") == COLLECTS:
            continue
        wants = key in module._forward_hooks_with_kwargs or key in torch_module._global_forward_hooks_with_kwargs
        keywords = (_shown_to(hook, inside.keywords),) if wants else ()
        given = hook(module, inside.args, *keywords, out)
        out = out if given is None else given
    return out if inside.backward is None else inside.backward.setup_output_hook(out)


def _backward_hook(module: nn.Module) -> BackwardHook | None:
    full = [*torch_module._global_backward_hooks.values(), *module._backward_hooks.values()]
    early = [*torch_module._global_backward_pre_hooks.values(), *module._backward_pre_hooks.values()]
    return BackwardHook(module, full, early) if full or early else None
