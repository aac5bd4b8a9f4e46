"""Vision-language models: where their vision tower is, and what of it the language model is given.

The tower's own class decides how it is run (`dialects.py`); here are the models around it. They hand the language
model one token for every patch, from the hidden states that their configuration names or from behind the tower's last
norm. State 0 goes into the first layer, state i comes out of layer i - 1.

Source: transformers 5.18 to 5.24, `models/*/modeling_*.py`, `get_image_features`.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, replace
from functools import reduce as fold
from typing import Any

from torch import nn

from ..layers import kind
from .dialects import ENTRIES, Entry, entry_of
from .heads import PATCH_MEAN


@dataclass(frozen=True)
class Reader:
    """A class of vision-language models.

    module: where it is, below transformers.models
    holder: path to the part that calls the tower in its `get_image_features`; empty: the model itself
    tower:  what that part calls the tower
    layer:  the setting that names the hidden states that are read; None: the last norm's output is
    normed: the value of that setting that means the last norm's output too
    """

    module: str
    holder: str
    tower: str = "vision_tower"
    layer: str | None = None
    normed: int | None = None

    @property
    def path(self) -> str:
        """From the model to its tower."""
        return ".".join(filter(None, (self.holder, self.tower)))


def _both(name: str, module: str, **reads: Any) -> dict[str, Reader]:
    """The bare model, and the one that generates."""
    whole = f"{module}.modeling_{module}"
    bare, generating = Reader(whole, "", **reads), Reader(whole, "model", **reads)
    return {f"{name}Model": bare, f"{name}ForConditionalGeneration": generating}


LAYER = "vision_feature_layer"
READERS: dict[str, Reader] = {
    **_both("Llava", "llava", layer=LAYER),
    **_both("LlavaNext", "llava_next", layer=LAYER),
    **_both("LlavaOnevision", "llava_onevision", layer=LAYER),
    **_both("PaliGemma", "paligemma"),
    **_both("Gemma3", "gemma3"),
    **_both("Idefics3", "idefics3", tower="vision_model"),
    **_both("SmolVLM", "smolvlm", tower="vision_model"),
    **_both("InternVL", "internvl", layer=LAYER, normed=-1),
}

_QWEN = "its tower runs images of all sizes in one row of tokens"
NOT_RUN = {  # beginnings of names -> why these are not run
    "Qwen2VL": f"{_QWEN}, and merges the patches of 2 x 2 squares behind its last block",
    "Qwen2_5_VL": f"{_QWEN}, in windows, and merges the patches of 2 x 2 squares behind its last block",
    "Qwen2_5_Vision": f"{_QWEN}, in windows, and merges the patches of 2 x 2 squares behind its last block",
    "Qwen2Vision": f"{_QWEN}, and merges the patches of 2 x 2 squares behind its last block",
    "Qwen3VL": f"{_QWEN}, and merges the patches of 2 x 2 squares behind its last block and inside",
}


@dataclass(frozen=True)
class Reading:
    """What a vision-language model reads of its tower.

    states: numbers of the hidden states that are read, in their order; empty: what the last norm gives
    skips:  tokens in front that are not read
    """

    states: tuple[int, ...]
    skips: int


@dataclass(frozen=True)
class Located:
    """A model with its tower.

    entry:   what comes after the tower's last norm, and how its parts are called
    tower:   what goes from images to tokens
    path:    where it is in the model
    reader, reading: of a vision-language model
    """

    entry: Entry
    tower: Any
    path: str
    reader: Reader | None = None
    reading: Reading | None = None


def reader_of(cls: type) -> Reader | None:
    """The row of exactly this class of transformers' own; None where there is none.

    Example:
        >>> from vitrim.backbones.transformers.towers import reader_of
        >>> reader_of(type(model)) is None  # timm's
        True
    """
    reader = READERS.get(cls.__name__)
    return reader if reader is not None and cls.__module__ == f"transformers.models.{reader.module}" else None


def runs(cls: type) -> bool:
    """Whether models of exactly this class are run."""
    return entry_of(cls) is not None or reader_of(cls) is not None


def locate(model: nn.Module) -> Located:
    """The tower of a model of a class that is run. Raises ValueError for a tower, or a setting, that is not."""
    cls = kind(model)
    entry, reader = entry_of(cls), reader_of(cls)
    if reader is None:
        assert entry is not None  # `runs` has been asked
        return Located(entry, part_at(model, entry.tower), entry.tower)
    tower = part_at(model, reader.path)
    found = entry_of(kind(tower))
    if found is None or found.tower:
        towers = ", ".join(name for name, entry in ENTRIES.items() if not entry.tower and "Backbone" not in name)
        raise ValueError(f"{cls.__name__}'s vision tower is a {type(tower).__name__}, and vitrim runs {towers}")
    config: Any = model.config
    dropped = getattr(config, "vision_feature_select_strategy", "full") == "default"
    states = states_of(reader, config, len(part_at(tower, found.dialect.layers)))
    return Located(replace(found, head=PATCH_MEAN), tower, reader.path, reader, Reading(states, int(dropped)))


def states_of(reader: Reader, config: Any, layers: int, asked: Any = None) -> tuple[int, ...]:
    """Numbers of the hidden states that are read, counted from the front; empty: what the last norm gives.

    asked: what the call says instead of the configuration
    Raises ValueError for numbers that no layer's output has.
    """
    named = None if reader.layer is None else getattr(config, reader.layer) if asked is None else asked
    if named == reader.normed:
        return ()
    numbers = list(named) if isinstance(named, Iterable) else [named]
    states = tuple(number + layers + 1 if number < 0 else number for number in numbers)
    if not states or not all(1 <= state <= layers for state in states):
        raise ValueError(
            f"{reader.layer} is {named}, and the tower's {layers} layers have outputs 1 to {layers} (or -{layers} to "
            "-1): there is nothing to reduce before the first"
        )
    return states


def part_at(model: Any, path: str) -> Any:
    """The part at a path; an empty path is the model itself."""
    return fold(getattr, filter(None, path.split(".")), model)


def why_not(name: str) -> str | None:
    """Why a class of transformers that is known is not run; None for others."""
    return next((why for start, why in NOT_RUN.items() if name.startswith(start)), None)
