"""How images are prepared for a model of transformers, as its image processor says, in timm's words."""

from __future__ import annotations

from typing import Any
from weakref import WeakKeyDictionary

from torch import nn

WORDS, NUMBERS = ("interpolation", "crop_mode"), ("input_size", "mean", "std", "crop_pct")
DATA = "_vitrim_data"  # where a model keeps what was recorded
_read: WeakKeyDictionary[nn.Module, dict[str, Any]] = WeakKeyDictionary()  # nothing is put on a caller's model


def recorded(model: Any) -> dict[str, Any]:
    """What is known of how a model's images are prepared: what was recorded, else what the image processor says that
    lies where the model came from, on this machine, else what was known when it was saved; empty where nothing is."""
    if DATA in vars(model):
        return vars(model)[DATA]
    if model not in _read:
        place, saved = model.config._name_or_path, getattr(model.config, "vitrim", None)
        found = prepared_as(place) if place else {}
        _read[model] = found or parse_data(saved.get("data", {}) if isinstance(saved, dict) else {})
    return _read[model]


def record(model: Any, data: dict[str, Any]) -> None:
    """Let the model carry these entries in the place of those that it has."""
    model.__dict__[DATA] = {**recorded(model), **data}


def fetch(model: Any, place: str) -> None:
    """Let the model carry what its image processor says, also from the hub, where its weights come from too."""
    if found := prepared_as(place, here=False):
        model.__dict__[DATA] = found


def parse_data(said: Any) -> dict[str, Any]:
    """The same from JSON. Raises ValueError for what is no such entry.

    Example:
        >>> from vitrim.backbones.transformers.processors import parse_data
        >>> parse_data({"mean": [0.5, 0.5, 0.5], "crop_mode": "squash"})
        {'mean': (0.5, 0.5, 0.5), 'crop_mode': 'squash'}
    """
    found = said if isinstance(said, dict) else {"": said}
    for key, value in found.items():
        numbers = value if isinstance(value, list) else [value]
        fits = isinstance(value, str) if key in WORDS else all(type(number) in (int, float) for number in numbers)
        if key not in (*WORDS, *NUMBERS) or not fits:
            raise ValueError(f"{key}: {value!r} does not say how images are prepared")
    return {key: tuple(value) if isinstance(value, list) else value for key, value in found.items()}


def prepared_as(place: str, here: bool = True) -> dict[str, Any]:
    """What the model's image processor does, in timm's words; empty where it has none. here: on this machine alone"""
    from transformers import AutoImageProcessor

    try:
        processor: Any = AutoImageProcessor.from_pretrained(place, local_files_only=here, trust_remote_code=False)
    except (OSError, ValueError, ImportError):
        return {}
    return as_data(processor.to_dict())


def as_data(told: dict[str, Any]) -> dict[str, Any]:
    """An image processor's settings as timm's data configuration.

    Example:
        >>> from vitrim.backbones.transformers.processors import as_data
        >>> crop = {"do_center_crop": True, "crop_size": {"height": 224, "width": 224}}
        >>> as_data({"size": {"shortest_edge": 256}, **crop})
        {'crop_pct': 0.875, 'crop_mode': 'center', 'input_size': (3, 224, 224)}
    """
    data: dict[str, Any] = {}
    if told.get("do_normalize", True) and told.get("image_mean"):
        data |= {"mean": tuple(told["image_mean"]), "std": tuple(told["image_std"])}
    if told.get("resample") in _RESAMPLE:
        data["interpolation"] = _RESAMPLE[told["resample"]]
    size, crop = told.get("size") or {}, told.get("crop_size") or {}
    if told.get("do_center_crop") and "shortest_edge" in size and crop:
        data |= {"crop_pct": crop["height"] / size["shortest_edge"], "crop_mode": "center"}
        return {**data, "input_size": (3, crop["height"], crop["width"])}
    if "height" in size:
        data |= {"crop_pct": 1.0, "crop_mode": "squash", "input_size": (3, size["height"], size["width"])}
    return data


_RESAMPLE = {0: "nearest", 1: "lanczos", 2: "bilinear", 3: "bicubic", 4: "box", 5: "hamming"}  # PIL's numbers
