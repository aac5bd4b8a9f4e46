"""What `config.json` says: how to make a model again. Nothing in it can fetch, read elsewhere or run anything."""

from __future__ import annotations

import hashlib
import json
import math
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
from torchvision.transforms import InterpolationMode

from ..backbones import LIBRARIES
from ..core.values import as_number, as_several, as_whole, shown
from ..methods import METHODS, import_path, is_own

FORMAT = 2  # 1: without dtypes and without a copy beside the weights
LARGEST = 10**7  # of a whole number in an architecture
DTYPES = {
    str(dtype).removeprefix("torch."): dtype for dtype in (torch.float64, torch.float32, torch.float16, torch.bfloat16)
}
NAMES = {dtype: name for name, dtype in DTYPES.items()}
CROPS = ("center", "squash", "border")
INTERPOLATIONS = (*(mode.value for mode in InterpolationMode), "random")


class NotAllowed(ValueError):
    """A method that is not vitrim's own and that the caller has not allowed. path: its `module:Class`"""

    def __init__(self, name: str, path: str):
        super().__init__(f"method {shown(name)} is {shown(path)}, not vitrim's own, and its code was not allowed")
        self.path = path


@dataclass(frozen=True)
class Architecture:
    """A name that a library's list holds, and plain arguments of the model's class."""

    name: str
    arguments: dict[str, Any]

    def as_json(self) -> dict[str, Any]:
        return {"backbone": self.name, "arguments": self.arguments}


@dataclass(frozen=True)
class SavedMethod:
    """A method's name and options.

    guide: the model that it asks for scores
    path:  `module:Class` of a method that is not vitrim's own; nothing is ever imported by it
    source: `source_hash` of that class; None: it had no source, or was saved before there was one
    """

    name: str
    options: dict[str, Any]
    guide: Architecture | None = None
    path: str | None = None
    source: str | None = None

    def as_json(self) -> dict[str, Any]:
        score = {} if self.guide is None else {"score": {"last_class_attention": self.guide.as_json()}}
        path = {} if self.path is None else {"class": self.path}
        source = {} if self.source is None else {"source": self.source}
        return {"method": self.name, **path, **source, "options": {**self.options, **score}}


@dataclass(frozen=True)
class SavedConfig:
    """All that makes a model again beside its weights.

    data:   how images are prepared
    dtype:  of all floating tensors but those in `dtypes`, by name; None: it was not recorded (format 1)
    digest: of the tensors; None: it was not recorded
    prediction_only: as for `reduce`
    """

    architecture: Architecture
    methods: tuple[SavedMethod, ...]
    data: dict[str, Any]
    dtype: str | None = None
    dtypes: dict[str, str] = field(default_factory=dict)
    versions: dict[str, str] = field(default_factory=dict)
    digest: str | None = None
    prediction_only: bool = False

    def as_json(self) -> dict[str, Any]:
        """As `config.json` has it; `save` names these contents."""
        contents = {
            "format": FORMAT,
            **self.architecture.as_json(),
            "methods": [method.as_json() for method in self.methods],
            **({"prediction_only": True} if self.prediction_only else {}),
            "data": self.data,
            "dtype": self.dtype,
            **({"dtypes": self.dtypes} if self.dtypes else {}),
            "versions": self.versions,
            **({"tensors": self.digest} if self.digest else {}),
        }
        return {**contents, "save": fingerprint(contents)}


def fingerprint(contents: Mapping[str, Any]) -> str:
    """Names what a config says, `save` itself left out."""
    bare = {key: value for key, value in contents.items() if key != "save"}
    return hashlib.sha256(json.dumps(bare, sort_keys=True).encode()).hexdigest()


def parse_config(raw: Any) -> SavedConfig:
    """The config that JSON has given. Raises ValueError for anything that `save` would not have written."""
    _check(isinstance(raw, dict), f"it is no JSON object, it is {shown(raw)}")
    number = raw.get("format", 1)
    _check((as_whole(number) or 0) >= 1, f"format: {shown(number)} is no whole number from 1")
    _check(
        number <= FORMAT, f"format {number} is newer than this vitrim, which reads up to {FORMAT}: install a newer one"
    )
    methods = parse_methods(_get(raw, "methods", list))
    only = _get(raw, "prediction_only", bool, False)
    _check(bool(methods) or only, "methods: there is none")
    return SavedConfig(
        parse_architecture(raw),
        methods,
        _data(_get(raw, "data", dict)),
        _dtype("dtype", raw["dtype"]) if number > 1 and "dtype" in raw else None,
        {str(name): _dtype(name, dtype) for name, dtype in _get(raw, "dtypes", dict, {}).items()},
        {str(name): str(version) for name, version in _get(raw, "versions", dict, {}).items()},
        _get(raw, "tensors", str) if "tensors" in raw else None,
        only,
    )


def parse_methods(raw: Any) -> tuple[SavedMethod, ...]:
    """The methods that JSON has given. Raises ValueError for what is not known or not allowed."""
    _check(isinstance(raw, list), f"methods: {shown(raw)} is no list")
    return tuple(_method(entry) for entry in raw)


def parse_architecture(raw: dict[str, Any]) -> Architecture:
    """The architecture in `raw`. Raises ValueError for names and arguments that a library could look up elsewhere."""
    name, arguments = _get(raw, "backbone", str), _get(raw, "arguments", dict)
    libraries = [library for library in LIBRARIES if re.fullmatch(r"\w{1,100}", name) and library.has_model(name)]
    has = " or ".join([*(library.name for library in LIBRARIES), "vitrim has"])
    _check(bool(libraries), f"backbone {shown(name)} is no architecture that {has} by that name")
    for key, value in arguments.items():
        _check(key in libraries[0].argument_names, f"arguments: {shown(key)} is no argument of an architecture")
        _check(is_plain(value), f"arguments: {key}={shown(value)} is no plain value in reach")
    return Architecture(name, arguments)


def is_plain(value: Any, depth: int = 3) -> bool:
    """Whether JSON holds it as it is: text, flags, numbers of sensible size, None, and lists of these."""
    if isinstance(value, (list, tuple)):
        return depth > 0 and len(value) <= 1000 and all(is_plain(inner, depth - 1) for inner in value)
    if isinstance(value, str):
        return len(value) <= 200
    if value is None or isinstance(value, bool):
        return True
    return isinstance(value, (int, float)) and abs(value) <= LARGEST  # nan is not


def _method(entry: Any) -> SavedMethod:
    _check(isinstance(entry, dict), f"methods: {shown(entry)} is no method with its options")
    name, options = _get(entry, "method", str), dict(_get(entry, "options", dict))
    path, source = (_get(entry, key, str) if key in entry else None for key in ("class", "source"))
    _check_known(name, path)
    strange = [key for key in options if key not in METHODS[name].option_names()]
    _check(not strange, f"{name} has no option {', '.join(map(shown, strange))}")
    guide = options.pop("score") if isinstance(options.get("score"), dict) else None
    if guide is not None:
        _check(list(guide) == ["last_class_attention"], f"score: {shown(guide)} is no guide that load() knows")
        guide = parse_architecture(_get(guide, "last_class_attention", dict))
    return SavedMethod(name, options, guide, path, source)


def _check_known(name: str, path: str | None) -> None:
    """Raise ValueError for a method that is neither vitrim's own nor allowed by the caller: its code would run."""
    cls = METHODS.get(name)
    known = cls is not None and path == (None if is_own(cls) else import_path(cls))
    if path is not None and not known:
        raise NotAllowed(name, path)
    _check(known, f"method {shown(name)} is not known: it is one of {', '.join(METHODS)}")


def _data(raw: dict[str, Any]) -> dict[str, Any]:
    """How images are prepared; ValueError for anything else that would end up beside it."""
    missing = [key for key in _FITS if key not in raw and key != "label_names"]
    _check(not missing, f"data: it has no {', '.join(missing)}")
    for key, value in raw.items():
        _check(key in _FITS, f"data: {shown(key)} is not one of {', '.join(_FITS)}")
        _check(_FITS[key](value), f"data: {key}={shown(value)} cannot be")
    return raw


def _colours(fits: Callable[[float], bool]) -> Callable[[Any], bool]:
    def fit(value: Any) -> bool:
        several = as_several(value)
        return (
            several is not None
            and 0 < len(several) <= 100
            and all(_number(number) and fits(number) for number in several)
        )

    return fit


def _number(value: Any) -> bool:
    return as_number(value) is not None and math.isfinite(value)


_FITS: dict[str, Callable[[Any], bool]] = {
    "mean": _colours(lambda number: abs(number) < 1e6),
    "std": _colours(lambda number: 0 < number < 1e6),
    "interpolation": lambda value: value in INTERPOLATIONS,
    "crop_pct": lambda value: _number(value) and 0 < value <= 10,
    "crop_mode": lambda value: value in CROPS,
    "label_names": lambda value: (
        isinstance(value, dict) and all(index.isdecimal() and isinstance(name, str) for index, name in value.items())
    ),
}


def _dtype(name: str, value: Any) -> str:
    _check(
        isinstance(value, str) and value in DTYPES, f"{name}: dtype {shown(value)} is not one of {', '.join(DTYPES)}"
    )
    return value


def _get(raw: dict[str, Any], key: str, kind: type, default: Any = None) -> Any:
    value = raw.get(key, default)
    _check(
        isinstance(value, kind),
        f"it has no {key!r} as save() writes it" if key not in raw else f"{key}: {shown(value)}",
    )
    return value


def _check(holds: bool, message: str) -> None:
    if not holds:
        raise ValueError(message)
