"""A model at hand put into words: the config that should make it again."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import replace
from importlib.metadata import version
from typing import Any

from torch import nn

from .._version import __version__
from ..backbones import library_of
from ..core.values import as_flag, as_number, as_several
from ..methods import METHODS, LastClassAttention, Method, check_name_free, import_path, is_own, source_hash
from ..methods.parts.stored_shares import StoredShares
from .model import ReducedViT
from .saved_config import NAMES, Architecture, SavedConfig, SavedMethod, is_plain

DATA = ("mean", "std", "interpolation", "crop_pct", "crop_mode")


def candidates(model: ReducedViT) -> Iterator[SavedConfig]:
    """The config as the model was asked for; then with what can be read off it, where it has changed since.

    Raises ValueError for a model that no config can name.
    """
    library = library_of(model.backbone)
    asked = SavedConfig(
        architecture_of(model.backbone),
        tuple(_method(method) for method in model.methods),
        _data(model.backbone),
        _dtype(model.backbone),
        prediction_only=model.prediction_only,
        versions={"vitrim": __version__, library.name: library.version, "torch": version("torch")},
    )
    yield asked
    methods = [_as_it_runs(saved, method) for saved, method in zip(asked.methods, model.methods, strict=True)]
    found = replace(asked, architecture=_as_it_stands(asked.architecture, model.backbone), methods=tuple(methods))
    if found != asked:
        yield found


def _data(backbone: nn.Module) -> dict[str, Any]:
    """How images are prepared; and the names of the classes, where the model knows them."""
    library = library_of(backbone)
    data, label_names = library.data_config(backbone), library.label_names(backbone)
    return {key: _plain(data[key]) for key in DATA} | ({"label_names": label_names} if label_names else {})


def methods_config(model: ReducedViT) -> list[dict[str, Any]]:
    """Name and options of every method, in plain values, without the hash of its source: a run may go on after a
    comment was edited. A guide is named by the model that it asks.

    Raises ValueError for methods that are not registered, and for a guide that is not `LastClassAttention`.
    """
    return [replace(_method(method), source=None).as_json() for method in model.methods]


def name_of(methods: Iterable[Method]) -> str:
    """The method's name; of a stack all of them."""
    return "+".join(method.name for method in methods) or "dense"


def options_of(methods: Iterable[Method]) -> dict[str, Any]:
    """Every option of the method, places written out; of a stack by method, the second of a name as `evit 2`."""
    stack: dict[str, Any] = {}
    for method in methods:
        number = 1 + sum(key.split()[0] == method.name for key in stack)
        stack[method.name if number == 1 else f"{method.name} {number}"] = _all_options(method)
    return stack if len(stack) != 1 else next(iter(stack.values()))


def _all_options(method: Method) -> dict[str, Any]:
    values = method.option_values()
    for name in ("at", "blocks"):
        if name in values:
            values[name] = [place.block for place in method.places]
    if method.guide is not None:
        guide: Any = method.guide
        values["score"] = f"last class attention of {library_of(guide.model).architecture(guide.model)}"
    return {name: list(value) if isinstance(value, (tuple, range)) else value for name, value in values.items()}


def architecture_of(backbone: nn.Module) -> Architecture:
    """The library's own record of how a model was built, brought up to date.

    Raises ValueError for a model that the library's factory has not made, or not from plain values.
    """
    library = library_of(backbone)
    name = library.architecture(backbone)
    if name is None:
        raise ValueError(f"the model was not made by {library.factory}, so load() could not make it again: build it so")
    recorded = {key: _plain(value) for key, value in library.recorded_arguments(backbone).items()}
    odd = [f"{key}={value!r}" for key, value in recorded.items() if not is_plain(value)]
    if odd:
        raise ValueError(
            f"the model was built with {', '.join(odd)}, which config.json cannot hold, and load() would build another "
            f'model without it: give {library.name} the name instead, such as act_layer="relu", or save the state dict '
            "yourself"
        )
    return Architecture(name, {**recorded, **library.current_arguments(backbone)})


def _as_it_stands(architecture: Architecture, backbone: nn.Module) -> Architecture:
    """With what the library does not record when it prunes a model."""
    pruned = library_of(backbone).pruned_arguments(backbone)
    return Architecture(architecture.name, {**architecture.arguments, **pruned})


def _method(method: Method) -> SavedMethod:
    cls = type(method)
    if METHODS.get(method.name) is not cls:
        check_name_free(cls)
        raise ValueError(
            f"{cls.__name__} is no method of vitrim's own, and load() would make another of {method.name!r}: put "
            "@vitrim.register_method on its class, in a file that can be imported"
        )
    options, path, source = method.options(), None if is_own(cls) else import_path(cls), source_hash(cls)
    if method.guide is None:
        return SavedMethod(method.name, options, path=path, source=source)
    if type(method.guide) is not LastClassAttention:
        raise ValueError(
            "a method guided by a callable cannot be saved: guide it by vitrim.LastClassAttention(model), or give the "
            "scores with each call"
        )
    options.pop("score")
    return SavedMethod(method.name, options, architecture_of(method.guide.model), path, source)


def _as_it_runs(saved: SavedMethod, method: Method) -> SavedMethod:
    """With every place and its rate written out: training turns rates, and a pruned model loses places."""
    places, names = method.places, method.option_names()
    several = {key: value for key, value in saved.options.items() if isinstance(value, list) and len(value) > 1}
    options = {key: [value[place.index] for place in places] for key, value in several.items()}
    options |= {key: [place.block for place in places] for key in ("at", "blocks") if key in names}
    if "keep" in names and not isinstance(method, StoredShares):
        options["keep"] = [place.keep for place in places]
    return replace(saved, options={**saved.options, **options})


def _dtype(backbone: nn.Module) -> str:
    dtypes = [p.dtype for p in backbone.parameters() if p.is_floating_point()]
    if dtypes and dtypes[0] not in NAMES:
        raise ValueError(f"the model's weights are {dtypes[0]}: save it as one of {', '.join(NAMES.values())}")
    return NAMES[dtypes[0]] if dtypes else "float32"


def _plain(value: Any) -> Any:
    """Python's own numbers and lists for numpy's and torch's; anything else as it is."""
    several = as_several(value)
    if several is not None:
        return [_plain(item) for item in several]
    flag, number = as_flag(value), as_number(value)
    return value if flag is number is None else number if flag is None else flag
