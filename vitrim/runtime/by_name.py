"""Reduced models by name, in timm's registry: `vitrim_deit_small_patch16_224` beside each name that vitrim may run.

timm's own scripts make a model by its name and keyword arguments; these names take a method's besides, and everything
else goes to the model underneath.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any

import timm
from timm.models import generate_default_cfgs, register_model

from ..backbones.timm.interface import PREFIX
from ..backbones.timm.library import REDUCED
from ..common.text import did_you_mean, first_line
from ..methods import METHODS
from ..methods.registry import AUTO
from .build import reduce
from .model import ReducedViT

FAMILIES = ("vision_transformer", "deit", "eva", "swin_transformer", "names")  # timm's modules; `names`: LV-ViT's
OPTIONS = ("macs", "dial", "prediction_only")  # of `reduce`

default_cfgs: dict[str, Any] = {}  # timm looks for them here, in the module of the functions that it registers
__all__: list[str] = []  # timm adds the names


def register() -> None:
    """Let timm's registry hold the names; once is enough."""
    names = {name: None for family in FAMILIES for name in timm.list_models(module=family)}
    tagged = [name for name in timm.list_models(include_tags=True) if name.partition(".")[0] in names]
    known: Any = {f"{REDUCED}{name}": timm.get_pretrained_cfg(name) for name in tagged}
    default_cfgs.update(generate_default_cfgs(known))
    for name in names:
        if not timm.is_model(f"{REDUCED}{name}"):
            register_model(_maker(name))


def _maker(name: str) -> Any:
    """What timm calls for `vitrim_NAME`."""

    def make(pretrained: bool = False, **arguments: Any) -> ReducedViT:
        return build(name, pretrained, arguments)

    make.__name__ = make.__qualname__ = f"{REDUCED}{name}"
    make.__doc__ = f"{name} with a method of vitrim."
    return make


def build(name: str, pretrained: bool, arguments: dict[str, Any]) -> ReducedViT:
    """timm's model of that name with the method that the arguments name.

    Raises ValueError for a method, options or a model that do not fit.
    """
    method = arguments.pop("method", None)
    if method not in (*METHODS, AUTO):
        hint = "" if method is None else did_you_mean(str(method), METHODS)
        wrong = "no method was given" if method is None else f"method={method} is not known"
        raise ValueError(
            f"{REDUCED}{name}: {wrong}: {hint}give method=NAME, one of {', '.join(METHODS)}, and "
            "its options; in timm's scripts --model-kwargs method=evit keep=0.7"
        )
    names = () if method == AUTO else METHODS[method].option_names()
    ours = {key: arguments.pop(key) for key in (*names, *OPTIONS) if key in arguments}
    config = arguments.pop("pretrained_cfg", None)
    try:
        dense = timm.create_model(name, pretrained=pretrained, pretrained_cfg=_of_base(config, name), **arguments)
    except TypeError as error:  # an argument of nobody's
        raise ValueError(
            f"{REDUCED}{name}: {first_line(error)}; options of {method} are {', '.join(names) or 'none'}"
        ) from error
    reduced = reduce(dense, method, **ours)
    reduced.register_load_state_dict_pre_hook(_accept_dense)
    return reduced


def _of_base(config: Any, name: str) -> Any:
    """What timm was told of pretrained weights, as what the model underneath is told: a tag, a dict, or an object."""
    if dataclasses.is_dataclass(config) and not isinstance(config, type):
        return dataclasses.replace(config, architecture=name)
    return {**config, "architecture": name} if isinstance(config, Mapping) else config


def _accept_dense(model: ReducedViT, state: dict[str, Any], prefix: str, *_: Any) -> None:
    """A checkpoint of the dense model is one of the model underneath; timm's scripts take either."""
    if not any(key.startswith(prefix + PREFIX) for key in state):
        for key in [key for key in state if key.startswith(prefix)]:
            state[prefix + PREFIX + key.removeprefix(prefix)] = state.pop(key)
