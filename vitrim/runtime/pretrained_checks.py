"""Whether a folder can hold a model of transformers: what is made of its config takes all its weights."""

from __future__ import annotations

import copy
from collections.abc import Mapping
from typing import Any

from torch import Tensor, nn

from ..common.on_meta import on_meta
from ..common.text import few

ADAPTED = "_hf_peft_config_loaded"  # where transformers itself has put an adapter in, of which it saves nothing else


def check_whole(model: Any, state: Mapping[str, Any]) -> None:
    """Raise ValueError for a model with adapters that are not merged, or with layers that are wrapped or quantised:
    their weights have other names, and the layers would come back with random ones."""
    made, name = _made_again(model), type(model).__name__
    lost = [key for key in made if key not in state and not key.startswith("pooler.")]  # it may have been left out
    strange = [key for key in state if key not in made] or lost
    if strange:
        raise ValueError(
            f"{name} cannot be saved whole, its config knows no {few(strange, 1)}: merge the adapter (in peft "
            "merge_and_unload() of the dense model), or save its weights yourself and reduce the loaded model"
        )
    odd = [key for key, value in state.items() if not _is_alike(value, made[key])]
    if odd:
        found, wanted = state[odd[0]], list(made[odd[0]].shape)
        raise ValueError(
            f"{name} cannot be saved whole: {odd[0]} is a {type(found).__name__} {list(found.shape)}, and its config "
            f"says {wanted} in plain numbers: save the model before it is quantised or cut, and reduce the loaded one"
        )


def _made_again(model: Any) -> Mapping[str, Tensor]:
    """Shapes of what transformers makes of the config."""
    with on_meta():
        return type(model)._reduces(copy.deepcopy(model.config)).state_dict()


def _is_alike(value: Any, made: Tensor) -> bool:
    return type(value) in (Tensor, nn.Parameter) and not value.is_quantized and value.shape == made.shape
