"""Why a state dict does not fit a model: which keys, what is different, and what to do about it."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping

from torch import Tensor, nn

from ...common.errors import Part
from ...common.text import counted, few
from .record import part_keys

_BLOCK = re.compile(r"(?:blocks|layers)\.(\d+)\.")
_MADE_FOR = "choose the model that it was made for"


def misfit(weights: Mapping[str, Tensor], model: nn.Module, raw: Mapping[str, Tensor]) -> tuple[Part, ...]:
    """What to do, and what is missing, unexpected or misshapen (as the file has it); empty where all fits. Parts of an
    `OptionError`.

    weights: the state dict after timm's conversion
    raw:     as the file has it
    """
    state = model.state_dict()
    missing = [key for key in state if key not in weights]
    unexpected = [key for key in weights if key not in state]
    bad = [key for key in state if key in weights and state[key].shape != weights[key].shape]
    misshapen = [f"{key} ({in_words(raw.get(key, weights[key]))}, not {in_words(state[key])})" for key in bad]
    named = {"missing": missing, "unexpected": unexpected, "misshapen": misshapen}
    shown = 1 if sum(map(bool, named.values())) > 1 else 2 if misshapen else 3
    found = [f"{len(keys)} {what}: {few(keys, shown)}" for what, keys in named.items() if keys]
    return (*_advice(weights, model, missing, unexpected, bad), f" ({'; '.join(found)})") if found else ()


def in_words(tensor: Tensor) -> str:
    """A tensor's shape: `3 x 16`."""
    return " x ".join(map(str, tensor.shape)) or "scalar"


def _advice(
    weights: Mapping[str, Tensor], model: nn.Module, missing: list[str], unexpected: list[str], bad: list[str]
) -> tuple[Part, ...]:
    """What `create_model` should be told, where that is all; else that it is another model, and in what it differs."""
    keys = part_keys(model)
    heads, stem = keys["classifier"], keys["first_conv"]
    wrong = [*missing, *unexpected, *bad]
    of_head = [key for key in wrong if key.startswith(heads)]
    of_stem = [key for key in bad if key.startswith(stem)]
    if len(of_head) + len(of_stem) < len(wrong):
        return (_differences(weights, model) + _MADE_FOR,)
    found, wanted = [], {}
    if of_head:
        wanted["num_classes"] = classes = _classes(weights, of_head)
        found.append(f"has {counted(classes, 'class', 'classes') if classes else 'no classifier'}")
    if of_stem:
        wanted["in_chans"] = channels = weights[of_stem[0]].shape[1]
        found.append(f"takes images of {counted(channels, 'channel')}")
    return f"the checkpoint {' and '.join(found)}: create the model with ", wanted


def _classes(weights: Mapping[str, Tensor], keys: list[str]) -> int:
    """The classes of the checkpoint's head; 0 where it has none."""
    return next((weights[key].shape[0] for key in keys if key in weights and weights[key].dim() == 2), 0)


def _differences(weights: Mapping[str, Tensor], model: nn.Module) -> str:
    state = model.state_dict()
    pairs = {"block": (_depth(weights), _depth(state)), "channel": (_width(weights), _width(state))}
    found = [f"{counted(there, what)}, not {here}" for what, (there, here) in pairs.items() if there and there != here]
    return f"it has {', and '.join(found)}: " if found else ""


def _depth(keys: Iterable[str]) -> int:
    return len({match[0] for key in keys if (match := _BLOCK.match(key))})


def _width(state: Mapping[str, Tensor]) -> int:
    """Channels of the first block."""
    return next((value.shape[-1] for key, value in state.items() if key.endswith("norm1.weight")), 0)
