"""Arguments in each other's place, told by what they are."""

from __future__ import annotations

from typing import Any

from torch import nn

from .kinds_given import told


def check_order(call: str, model: Any, other: Any, name: str) -> None:
    """Raise ValueError where `model` is none, and what should stand behind it is one.

    call, name: of the function, and of the argument that belongs behind the model

    Example:
        >>> check_order("vitrim.reduce", "evit", model, "method")
        Traceback (most recent call last):
        ValueError: the model comes first, and 'evit' stands there: give vitrim.reduce(model, "evit")
    """
    if is_model(other) and not is_model(model):
        second = f'"{model}"' if isinstance(model, str) and len(model) < 60 else name
        raise ValueError(f"the model comes first, and {told(model)} stands there: give {call}(model, {second})")


def is_model(given: Any) -> bool:
    """Whether this is a model: a module, but no method, which is one too.

    Example:
        >>> is_model(model), is_model(vitrim.EViT()), is_model("evit")
        (True, False, False)
    """
    return isinstance(given, nn.Module) and not hasattr(type(given), "dial")
